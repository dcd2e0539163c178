"""Makes a listening test: one page, its sounds, and the key that says what each of them is.

The page works from disk and from any web host and knows nothing of the key. Three kinds:

- real_or_synthetic: is what follows the first seconds real? Real clips pass through the codec too,
  and a prompt is used for one clip only. Source: AudioLM, where 51.2 % of 1000 answers were right.
- preference: which of two continuations of a prompt is better? Source: AudioLM, where 83.3 % of 150
  answers preferred the piano of the whole system to that of acoustic tokens alone.
- mushra: how close are versions of a recording to it? With hidden reference and low-pass anchor.
  Source: ITU-R BS.1534-3.
"""

import dataclasses
import enum
import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.evaluation import degradations
from audiolm_jax.io import audio, files

_ANCHOR_RATE = 7_000  # carries 3.5 kHz, the standard's low anchor
HIDDEN_REFERENCE, ANCHOR = "reference", "anchor"


class Kind(enum.StrEnum):
  """What listeners are asked."""

  REAL_OR_SYNTHETIC = "real_or_synthetic"
  PREFERENCE = "preference"
  MUSHRA = "mushra"


class Sound(NamedTuple):
  """One clip of a trial.

  Attributes:
    truth: what it is: "real" or "synthetic", or the name of a system.
    waveform: all of it, with the part that is known.
    known_seconds: its beginning that listeners are told is a recording.
  """

  truth: str
  waveform: Float[np.ndarray, "samples"]
  known_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trial:
  """What a listener hears and judges at a time; `reference` is for mushra alone."""

  source: str
  sounds: Sequence[Sound]
  reference: Sound | None = None


def write_test(
  output_dir: str | os.PathLike[str],
  kind: Kind,
  trials: Sequence[Trial],
  sample_rate: int,
  *,
  seed: int = 0,
  facts: dict[str, Any] | None = None,
) -> Path:
  """Writes the page and its sounds, and beside the folder the key.

  Args:
    output_dir: folder of the page; nothing else may be in it.
    seed: of the sounds' names and of which sound comes first in a trial.
    facts: for the key: bundles, seeds, versions.
  Returns:
    The path of the key, `<output_dir>.key.json`. Keep it from listeners.
  Raises:
    UserError: the folder holds something.
    DataError: no trials.
  """
  folder = Path(output_dir).absolute()
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f"{folder} is not empty; give another folder")
  if not trials:
    raise DataError("there is no prompt to make a trial of")
  key_path = folder.with_name(folder.name + ".key.json")
  files.check_writable(key_path)
  draw = random.Random(seed)
  content_hash = hashlib.sha256(kind.value.encode())
  try:
    (folder / "audio").mkdir(parents=True)
  except OSError as error:
    raise UserError(f"cannot make {folder}: {error.strerror}") from error

  def put(sound: Sound) -> dict[str, Any]:
    file = f"audio/{draw.getrandbits(48):012x}.wav"
    audio.write_audio(folder / file, sound.waveform, sample_rate)
    content_hash.update((folder / file).read_bytes())
    seconds = len(sound.waveform) / sample_rate
    return {"file": file, "seconds": seconds, "known": sound.known_seconds}

  shown, key = [], {}
  for trial in trials:
    trial_id = f"{draw.getrandbits(48):012x}"
    sounds = draw.sample(list(trial.sounds), len(trial.sounds))
    entry: dict[str, Any] = {"id": trial_id, "sounds": [put(sound) for sound in sounds]}
    if trial.reference is not None:
      entry["reference"] = put(trial.reference)
    shown.append(entry)
    key[trial_id] = {"source": trial.source, "truth": [sound.truth for sound in sounds]}
  draw.shuffle(shown)
  # Browsers keep progress under this name, of all pages on disk together.
  name = content_hash.hexdigest()[:16]
  content = {"id": name, "kind": kind.value, "trials": shown}
  template = (
    resources.files("audiolm_jax.evaluation.listening")
    .joinpath("page.html")
    .read_text(encoding="utf-8")
  )
  # The JSON stands in a script element: nothing in it may look like its end.
  text = json.dumps(content).replace("<", "\\u003c")
  with files.atomic_write(folder / "index.html") as file:
    file.write(template.replace("TEST_AS_JSON", text).encode())
  with files.atomic_write(key_path) as file:
    made = {"test": name, "kind": kind.value, "facts": facts or {}, "trials": key}
    file.write((json.dumps(made, indent=1) + "\n").encode())
  return key_path


def real_or_synthetic(
  sources: Sequence[str],
  prompts: Sequence[Float[np.ndarray, "samples"]],
  real: Sequence[Float[np.ndarray, "samples"]],
  synthetic: Sequence[Float[np.ndarray, "samples"]],
  sample_rate: int,
  seed: int = 0,
) -> list[Trial]:
  """Half of the prompts with what really follows, half with what was made up.

  Args:
    prompts: as the codec gives them back; `real` likewise, and of the length of `synthetic`.
  """
  order = list(range(len(prompts)))
  random.Random(seed).shuffle(order)
  trials = []
  for place, index in enumerate(order):
    truth = "real" if place % 2 else "synthetic"
    rest = (real if truth == "real" else synthetic)[index]
    known = len(prompts[index]) / sample_rate
    sound = Sound(truth, np.concatenate([prompts[index], rest]), known)
    trials.append(Trial(sources[index], [sound]))
  return trials


def preference(
  sources: Sequence[str],
  systems: Mapping[str, Sequence[Float[np.ndarray, "samples"]]],
  known_seconds: float,
) -> list[Trial]:
  """Two systems on each prompt; what they make has the prompt before it."""
  return [
    Trial(source, [Sound(name, made[i], known_seconds) for name, made in systems.items()])
    for i, source in enumerate(sources)
  ]


def mushra(
  sources: Sequence[str],
  originals: Sequence[Float[np.ndarray, "samples"]],
  systems: Mapping[str, Sequence[Float[np.ndarray, "samples"]]],
  sample_rate: int,
) -> list[Trial]:
  """Each original with its versions, itself among them, and itself without its highs."""
  trials = []
  for i, (source, original) in enumerate(zip(sources, originals, strict=True)):
    anchor = degradations.narrow(original, sample_rate, _ANCHOR_RATE)
    sounds = [Sound(HIDDEN_REFERENCE, original), Sound(ANCHOR, anchor)]
    sounds += [Sound(name, made[i]) for name, made in systems.items()]
    trials.append(Trial(source, sounds, Sound(HIDDEN_REFERENCE, original)))
  return trials
