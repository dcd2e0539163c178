"""Builds a listening test: a page, its sounds, and a key with the origin of each sound.

The page works from disk and from any web host, and does not contain the key. The names and
the order of the sounds, and the choice of the real clips, come from the operating system's random
numbers, because a seed could be guessed. Every sound has different dither noise: without
dither, the files of the hidden and of the open reference would be equal. There are three kinds of
test:

- real_or_synthetic: is the sound after the first seconds real? The codec encodes and decodes the
  real clips too, and each prompt is used once. Source: AudioLM, where 51.2 % of 1000 answers were
  right.
- preference: which of two continuations of a prompt is better? Source: AudioLM, where 83.3 % of 150
  answers preferred the piano music of the whole system to music by its acoustic stages alone.
- mushra: how close to a recording are several versions of the recording? The versions include a
  hidden reference and a low-pass anchor. Source: ITU-R BS.1534-3.
"""

import dataclasses
import enum
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.evaluation import degradations
from audiolm_jax.io import audio, files

_RANDOM = secrets.SystemRandom()
_ANCHOR_RATE = 7_000  # Hz; limits the bandwidth to 3.5 kHz, as in the low anchor of BS.1534-3
HIDDEN_REFERENCE, ANCHOR = "reference", "anchor"


class ListeningTestKind(enum.StrEnum):
  """The kinds of listening tests, described at the top of this module."""

  REAL_OR_SYNTHETIC = "real_or_synthetic"
  PREFERENCE = "preference"
  MUSHRA = "mushra"


class Sound(NamedTuple):
  """One clip of a trial.

  Attributes:
    truth: origin of the clip: "real", "synthetic" or the name of a system.
    waveform: all samples, including the known beginning.
    known_seconds: length in seconds of the prompt, the beginning that the page marks; 0 for none.
  """

  truth: str
  waveform: Float[np.ndarray, "samples"]
  known_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trial:
  """One question of a listening test.

  Attributes:
    source: name of the recording.
    sounds: clips to compare or to rate.
    reference: the open reference in mushra, which is the recording; None in other kinds of test.
  """

  source: str
  sounds: Sequence[Sound]
  reference: Sound | None = None


def write_test(
  output_dir: str | os.PathLike[str],
  kind: ListeningTestKind,
  trials: Sequence[Trial],
  sample_rate: int,
  *,
  key_path: str | os.PathLike[str] | None = None,
  facts: JsonDict | None = None,
) -> Path:
  """Writes the page and its sounds into a folder, and the key outside of the folder.

  Args:
    output_dir: folder of the page, which must be empty or not exist.
    kind: kind of the test.
    trials: the questions.
    sample_rate: sample rate of the sounds in Hz.
    key_path: file of the key; None for `<output_dir>.key.json`, next to the folder.
    facts: values to store in the key, such as bundles, seeds and versions; None for no values.

  Returns:
    The path of the key, which only its owner can read. Do not publish it.

  Raises:
    UserError: the folder is not empty or cannot be created, the key would be in the folder, or a
      file cannot be written.
    DataError: there are no trials.
  """
  folder = Path(output_dir).absolute()
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f"{folder} is not empty; give another folder")
  if not trials:
    raise DataError("there are no trials; give prompts")
  key_path = Path(key_path or folder.with_name(folder.name + ".key.json")).absolute()
  if key_path.resolve().is_relative_to(folder.resolve()):
    raise UserError(f"the key {key_path} would be published with {folder}; choose another folder")
  files.check_writable(key_path)
  try:
    (folder / "audio").mkdir(parents=True)
  except OSError as error:
    raise UserError(f"cannot create {folder}: {error.strerror}") from error

  def put(sound: Sound) -> JsonDict:
    file = f"audio/{secrets.token_hex(8)}.wav"
    audio.write_audio(folder / file, _dithered(sound.waveform), sample_rate)
    seconds = len(sound.waveform) / sample_rate
    return {"file": file, "seconds": seconds, "known": sound.known_seconds}

  shown, key = [], {}
  # The sounds are also written in a random order, because the dates of the files show the order.
  for trial in _RANDOM.sample(list(trials), len(trials)):
    trial_id = secrets.token_hex(8)
    sounds = _RANDOM.sample(list(trial.sounds), len(trial.sounds))
    entry: JsonDict = {"id": trial_id, "sounds": [put(sound) for sound in sounds]}
    if trial.reference is not None:
      entry["reference"] = put(trial.reference)
    shown.append(entry)
    key[trial_id] = {"source": trial.source, "truth": [sound.truth for sound in sounds]}
  # A browser stores the progress of all pages from disk together; this name separates them.
  name = secrets.token_hex(8)
  content = {"id": name, "kind": kind.value, "trials": shown}
  template = (
    resources.files("audiolm_jax.evaluation.listening")
    .joinpath("page.html")
    .read_text(encoding="utf-8")
  )
  # The JSON is in a script element and must not contain its end tag.
  text = json.dumps(content).replace("<", "\\u003c")
  with files.atomic_write(folder / "index.html") as file:
    file.write(template.replace("TEST_AS_JSON", text).encode())
  with files.atomic_write(key_path) as file:
    os.chmod(file.name, 0o600)
    made = {"test": name, "kind": kind.value, "facts": facts or {}, "trials": key}
    file.write((json.dumps(made, indent=1) + "\n").encode())
  return key_path


def _dithered(waveform: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "samples"]:
  """Adds inaudible triangular noise, with a peak of one 16-bit step, to a waveform."""
  noise = np.random.default_rng(secrets.randbits(128)).random((2, len(waveform)), np.float32)
  return np.asarray(waveform + (noise[0] - noise[1]) / 2**15, np.float32)


def real_or_synthetic(
  sources: Sequence[str],
  prompts: Sequence[Float[np.ndarray, "_"]],
  real: Sequence[Float[np.ndarray, "_"]],
  synthetic: Sequence[Float[np.ndarray, "_"]],
  sample_rate: int,
) -> list[Trial]:
  """Returns a trial for each prompt, with either its real or its synthetic continuation.

  Half of the trials, rounded down, have the real continuation.

  Args:
    sources: names of the recordings.
    prompts: prompts, encoded and decoded by the codec.
    real: real continuations, encoded and decoded by the codec.
    synthetic: sampled continuations, with the lengths of the real continuations.
    sample_rate: sample rate of all waveforms in Hz.
  """
  order = _RANDOM.sample(range(len(prompts)), len(prompts))
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
  systems: Mapping[str, Sequence[Float[np.ndarray, "_"]]],
  known_seconds: float,
) -> list[Trial]:
  """Returns trials that compare two systems on each prompt.

  Args:
    sources: names of the prompts.
    systems: for each system, by name, the prompts with their continuations.
    known_seconds: length of the prompts in seconds.
  """
  return [
    Trial(source, [Sound(name, made[i], known_seconds) for name, made in systems.items()])
    for i, source in enumerate(sources)
  ]


def mushra(
  sources: Sequence[str],
  originals: Sequence[Float[np.ndarray, "_"]],
  systems: Mapping[str, Sequence[Float[np.ndarray, "_"]]],
  sample_rate: int,
) -> list[Trial]:
  """Returns a trial for each original, with its versions, the hidden reference and the anchor.

  Args:
    sources: names of the originals.
    originals: recordings.
    systems: for each system, by name, its versions of the originals.
    sample_rate: sample rate of all waveforms in Hz.
  """
  trials = []
  for i, (source, original) in enumerate(zip(sources, originals, strict=True)):
    anchor = degradations.narrow(original, sample_rate, _ANCHOR_RATE)
    sounds = [Sound(HIDDEN_REFERENCE, original), Sound(ANCHOR, anchor)]
    sounds += [Sound(name, made[i]) for name, made in systems.items()]
    trials.append(Trial(source, sounds, Sound(HIDDEN_REFERENCE, original)))
  return trials
