"""Tells sound that a bundle made from recordings, as well as its detector can.

It was trained on the samples of its own bundle. About sound of other makers it promises nothing,
and compression, noise or editing on the way may hide what it listens for: a low probability is no
proof that a recording is genuine, and a high one none that it is not. How often it errs, and on
what, stands in the bundle's model card.

  python -m audiolm_jax.detect a.wav b.mp3 recordings/
  python -m audiolm_jax.detect --json a.wav

What a file says of itself is read first: all that `sample` writes says how it was made. Folders are
searched through. Exit codes: 0 nothing is taken for synthetic, 1 something is, 2 a file could not
be read, or something else to mend.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import AudioError, BundleError, UserError
from audiolm_jax.io import audio, provenance

_BLOCK_SECONDS = 60
_SECONDS_IN_LINE = 10

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "bundle",
  "speech_tiny",
  "Name or folder of the bundle whose samples to detect.",
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "json", False, "Print one array, with an object for each file.", flag_values=FLAGS
)
flags.DEFINE_float(
  "threshold", 0.5, "Probability from which on a file is taken for synthetic.", 0.0, 1.0,
  flag_values=FLAGS,
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
  """Listens to each file and prints what is found; returns the exit code."""
  if len(argv) < 2:
    raise UserError("give files or folders of sound: detect FILE...")
  paths = _files(argv[1:])
  compilation_cache.enable()
  from audiolm_jax import bundles

  detector = bundles.load_bundle(FLAGS.bundle, stages=()).detector
  if detector is None:
    raise BundleError(
      f"the bundle {FLAGS.bundle} has no detector; train one on what make_detection_corpus makes"
    )
  found = []
  for path in paths:
    found.append(_judge(detector, path))
    if not FLAGS.json:
      _show(found[-1])
  if FLAGS.json:
    print(json.dumps(found, indent=1))
  unreadable = sum("error" in entry for entry in found)
  if unreadable:
    raise UserError(f"{unreadable} of {len(paths)} files cannot be judged")
  return int(any(_is_synthetic(entry) for entry in found))


main.takes_arguments = True  # type: ignore[attr-defined]


def _files(given: Sequence[str]) -> list[str]:
  """The files given, and those of sound in the folders given."""
  from audiolm_jax.data.manifest import AUDIO_SUFFIXES

  paths = []
  for path in given:
    if not os.path.isdir(path):
      paths.append(path)
      continue
    inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    inside = sorted(name for name in inside if name.lower().endswith(AUDIO_SUFFIXES))
    if not inside:
      raise AudioError(f"{path} holds no files of sound ({' '.join(AUDIO_SUFFIXES)})")
    paths += inside
  return paths


def _judge(detector: Any, path: str) -> dict[str, Any]:
  """What a file says of itself, and what the detector hears in it; or why it cannot."""
  rate = detector.sample_rate
  try:
    said = provenance.read_provenance(path)
    blocks = audio.read_blocks(path, sample_rate=rate, block_samples=_BLOCK_SECONDS * rate)
    heard = detector.detect_blocks(blocks, path)
  except AudioError as error:
    return {"file": path, "error": str(error)}
  return {
    "file": path,
    "probability_synthetic": round(heard.probability_synthetic, 4),
    "per_second": [None if p is None else round(p, 4) for p in heard.per_second],
    "says": None if said is None else {"bundle": said.bundle, "seed": said.seed},
  }


def _is_synthetic(entry: dict[str, Any]) -> bool:
  return entry["says"] is not None or entry["probability_synthetic"] >= FLAGS.threshold


def _show(entry: dict[str, Any]) -> None:
  """A line for the file and one for every ten seconds."""
  if "error" in entry:
    print(f"error: {entry['error']}", file=sys.stderr)
    return
  verdict = "synthetic" if _is_synthetic(entry) else "real"
  said = entry["says"]
  words = f"; it says so itself: {said['bundle']}, seed {said['seed']}" if said else ""
  print(f"{entry['file']}: {entry['probability_synthetic']:.3f} {verdict}{words}")
  seconds = entry["per_second"]
  for first in range(0, len(seconds), _SECONDS_IN_LINE):
    values = seconds[first : first + _SECONDS_IN_LINE]
    shown = " ".join("   - " if p is None else f"{p:.3f}" for p in values)
    print(f"  {first // 60}:{first % 60:02d}  {shown}")


if __name__ == "__main__":
  run_cli(main, FLAGS)
