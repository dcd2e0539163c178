"""The voices that programs can name, read from the recordings of one folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audiolm_jax.bundles.settings import check_prompt
from audiolm_jax.core.errors import UserError
from audiolm_jax.data.manifest import AUDIO_SUFFIXES
from audiolm_jax.io import audio

# Name of the voice that the model draws, unless the folder has a recording of this name.
DEFAULT = "default"
SECONDS = 3.0  # maximum length of a voice


class Voice(NamedTuple):
  """A voice: the beginning of a recording, or a voice that the model draws.

  Attributes:
    waveform: samples of the recording; None for a voice that the model draws.
    sample_rate: sample rate in Hz; None for a voice that the model draws.
  """

  waveform: np.ndarray | None = None
  sample_rate: int | None = None


DRAWN: Mapping[str, Voice] = {DEFAULT: Voice()}


def read_voices(folder: Path) -> dict[str, Voice]:
  """Returns the voices in a folder by file name without extension, and the voice `DEFAULT`.

  All recordings are read before the first request, so that a request cannot read other files.
  Subfolders and hidden files are ignored.

  Raises:
    UserError: `folder` is not a folder or has no recordings, two recordings have the same name,
      or a recording links to another folder or cannot be used as a voice.
  """
  if not folder.is_dir():
    raise UserError(f"--voices {folder} is not a folder; give one with a recording of each voice")
  found: dict[str, Voice] = {}
  for path in sorted(folder.iterdir()):
    if not path.name.lower().endswith(AUDIO_SUFFIXES) or path.name.startswith(".") or path.is_dir():
      continue
    if path.resolve().parent != folder.resolve():
      raise UserError(f"{path} is a link to a file of another folder; copy that file into {folder}")
    if path.stem in found:
      raise UserError(f"{folder} has several recordings named {path.stem}; rename all but one")
    waveform, rate = audio.read_audio(path, seconds=SECONDS)
    check_prompt(waveform, rate, str(path))
    found[path.stem] = Voice(waveform, rate)
  if not found:
    raise UserError(
      f"--voices {folder} has no recording; put one of each voice into it, as NAME.wav or NAME.flac"
    )
  return {**DRAWN, **found}
