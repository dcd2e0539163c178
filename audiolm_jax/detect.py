"""Detects audio that a bundle generated.

  python -m audiolm_jax.detect a.wav b.mp3 recordings/
  python -m audiolm_jax.detect --json a.wav

For each file, the command prints the metadata that `sample` writes, the p-value and the payload of
the bundle's watermark, and the probability that the bundle's classifier returns. A bundle may have
no watermark or no classifier. Watermark and classifier detect only audio of this bundle. A file
counts as synthetic if it has such metadata, or if the p-value or the probability reaches its
threshold. Compression, noise or editing can remove all evidence, so no result proves that a
recording is genuine. The bundle's model card lists the error rates.

Folders are searched recursively. Exit codes: 0 no file is synthetic, 1 at least one file is
synthetic, 2 a file could not be read, or another error that you can fix.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli, takes_arguments
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import AudioError, BundleError, UserError
from audiolm_jax.io import audio, provenance, storage

if TYPE_CHECKING:  # bundles import JAX
  import numpy as np

  from audiolm_jax.bundles import Bundle
  from audiolm_jax.detection.detector import Detector
  from audiolm_jax.detection.watermark_detector import WatermarkDetector

_BLOCK_SECONDS = 60
_SECONDS_IN_LINE = 10
_LIMITS = (
  "metadata: any program can remove or change them.",
  "watermark: p is the probability of such a match in audio without this mark, for this file alone "
  "and all searched offsets and payloads. Processing can remove a mark; other models have none.",
  "classifier: trained on samples of this bundle; the model card has its error rates.",
)

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "bundle",
  "speech",
  "Name or folder of the bundle whose samples to detect.",
  flag_values=FLAGS,
)
flags.DEFINE_bool("json", False, "Print an array with an object for each file.", flag_values=FLAGS)
flags.DEFINE_float(
  "threshold", 0.5, "Lowest probability at which a file counts as synthetic.", 0.0, 1.0,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  "watermark_threshold", 1e-6, "Highest p-value at which a file counts as synthetic.", 0.0, 1.0,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  "watermark_key", None, "Key file of the mark; default: the bundle's public key.",
  flag_values=FLAGS,
)  # fmt: skip


class _Detectors(NamedTuple):
  """The watermark detector and the classifier of a bundle; None for a missing detector."""

  watermark: "WatermarkDetector | None"
  classifier: "Detector | None"


@takes_arguments
def main(argv: Sequence[str]) -> int:
  """Examines each file and prints the results; returns the exit code."""
  if len(argv) < 2:
    raise UserError("give audio files or folders: detect FILE...")
  paths = _files(argv[1:])
  compilation_cache.enable()
  from audiolm_jax import bundles

  detectors = _detectors(bundles.load_bundle(FLAGS.bundle, stages=()))
  found = []
  for path in paths:
    found.append(_detect(detectors, path))
    if not FLAGS.json:
      _show(found[-1])
  if FLAGS.json:
    print(json.dumps(found, indent=1))
  else:
    print("\n".join(_LIMITS))
  unreadable = sum("error" in entry for entry in found)
  if unreadable:
    raise UserError(f"{unreadable} of {len(paths)} files cannot be read; see the lines above")
  return int(any(_is_synthetic(entry) for entry in found))


def _files(given: Sequence[str]) -> list[str]:
  """Returns the given files, and the audio files in the given folders.

  Raises:
    AudioError: a folder contains no audio files.
  """
  from audiolm_jax.data.manifest import AUDIO_SUFFIXES

  paths = []
  for path in given:
    if not storage.is_folder(path):
      paths.append(path)
      continue
    names = [e.name for e in storage.list_files(path) if e.name.lower().endswith(AUDIO_SUFFIXES)]
    if not names:
      raise AudioError(f"{path} contains no audio files ({' '.join(AUDIO_SUFFIXES)})")
    paths += [storage.join(path, name) for name in names]
  return paths


def _detectors(bundle: "Bundle") -> _Detectors:
  key = None
  if FLAGS.watermark_key is not None:
    from audiolm_jax.detection.watermark import read_key

    key = read_key(FLAGS.watermark_key)
  if bundle.watermark is None and (key is not None or bundle.detector is None):
    lacks = "watermark" if key is not None else "watermark and no detector"
    raise BundleError(
      f"the bundle {bundle.name} has no {lacks}; make them with make_watermark and "
      "make_detection_corpus"
    )
  mark = None if bundle.watermark is None else bundle.watermark_detector(key)
  return _Detectors(mark, bundle.detector)


def _detect(detectors: _Detectors, path: str) -> JsonDict:
  """Returns the evidence in a file as JSON values, or the error if the file cannot be read."""

  def blocks(rate: int) -> Iterator["np.ndarray"]:
    return audio.read_blocks(path, sample_rate=rate, block_samples=_BLOCK_SECONDS * rate)

  mark, classifier = detectors
  try:
    made = provenance.read_provenance(path)
    found: JsonDict = {
      "file": path,
      "provenance": None if made is None else {"bundle": made.bundle, "seed": made.seed},
      "watermark_p_value": None,
      "watermark_per_second": None,
      "watermark_payload": None,
      "watermark_payload_confidence": None,
      "probability_synthetic": None,
      "per_second": None,
    }
    if classifier is not None:
      detection = classifier.detect_blocks(blocks(classifier.sample_rate), path)
      found["probability_synthetic"] = round(detection.probability_synthetic, 4)
      found["per_second"] = [None if p is None else round(p, 4) for p in detection.per_second]
    if mark is not None:
      marked = mark.detect_blocks(blocks(mark.sample_rate))
      found["watermark_p_value"] = _rounded(marked.p_value)
      found["watermark_per_second"] = [_rounded(p) for p in marked.per_second]
      # In audio without a watermark, the decoded payload is random.
      if marked.payload is not None and marked.p_value <= FLAGS.watermark_threshold:
        found["watermark_payload"] = marked.payload.content.hex()
        confidence = [round(value, 4) for value in marked.payload.confidence]
        found["watermark_payload_confidence"] = confidence
  except AudioError as error:
    return {"file": path, "error": str(error)}
  return found


def _rounded(p_value: float) -> float:
  return float(f"{p_value:.2e}")


def _is_synthetic(entry: JsonDict) -> bool:
  p_value, probability = entry["watermark_p_value"], entry["probability_synthetic"]
  return (
    entry["provenance"] is not None
    or (p_value is not None and p_value <= FLAGS.watermark_threshold)
    or (probability is not None and probability >= FLAGS.threshold)
  )


def _show(entry: JsonDict) -> None:
  """Prints a line for the file, for each kind of evidence, and for every ten seconds of scores."""
  if "error" in entry:
    print(f"error: {entry['error']}", file=sys.stderr)
    return
  print(f"{entry['file']}: {'synthetic' if _is_synthetic(entry) else 'nothing found'}")
  made = entry["provenance"]
  source = f"generated by {made['bundle']}, seed {made['seed']}" if made else "none"
  print(f"  metadata: {source}")
  if entry["watermark_p_value"] is None:
    print("  watermark: the bundle has none")
  else:
    print(f"  watermark: p = {entry['watermark_p_value']:.1e}")
    if entry["watermark_payload"] is not None:
      sure = math.prod(entry["watermark_payload_confidence"])
      print(f"  payload: {entry['watermark_payload']}, right with probability {sure:.3f}")
    _show_seconds(entry["watermark_per_second"], "{:.0e}")
  if entry["probability_synthetic"] is None:
    print("  classifier: the bundle has none")
  else:
    print(f"  classifier: {entry['probability_synthetic']:.3f}")
    _show_seconds(entry["per_second"], "{:.3f}")


def _show_seconds(seconds: Sequence[float | None], form: str) -> None:
  for first in range(0, len(seconds), _SECONDS_IN_LINE):
    values = seconds[first : first + _SECONDS_IN_LINE]
    shown = " ".join("-".center(5) if p is None else form.format(p) for p in values)
    print(f"    {first // 60}:{first % 60:02d}  {shown}")


if __name__ == "__main__":
  run_cli(main, FLAGS)
