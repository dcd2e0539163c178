"""The voices that programs can name, read from the recordings of one folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audiolm_jax.bundles.settings import check_prompt
from audiolm_jax.core.errors import UserError
from audiolm_jax.data.manifest import AUDIO_SUFFIXES
from audiolm_jax.io import audio

# The voice that the model draws, if the folder has no recording of this name.
DEFAULT = "default"
SECONDS = 3.0  # of each recording


class Voice(NamedTuple):
  """The beginning of a recording of a voice.

  Attributes:
    waveform: its samples; None for a voice that the model draws.
    sample_rate: Hz.
  """

  waveform: np.ndarray | None = None
  sample_rate: int | None = None


DRAWN: Mapping[str, Voice] = {DEFAULT: Voice()}


def read_voices(folder: Path) -> dict[str, Voice]:
  """Returns the voices of a folder by the names of its files without extension, and `DEFAULT`.

  Everything is read here, so that a request can name nothing but what was read. Folders inside the
  folder and hidden files are left out.

  Raises:
    UserError: the folder has no recordings, two with the same name, a link to another folder, or a
      file that cannot be used as a voice.
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
