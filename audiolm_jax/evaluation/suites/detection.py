"""Measures how well a detector distinguishes a bundle's samples from recordings.

The sounds are measured unchanged and after degradations.

Source: AudioLM, the detection of synthesized speech: pieces of one second, equal weight of both
classes, real pieces that the codec encoded and decoded, and speakers that the detector was not
trained on.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax import bundles
from audiolm_jax.bundles import Bundle
from audiolm_jax.core.errors import DataError
from audiolm_jax.detection.detector import Detector
from audiolm_jax.evaluation import degradations
from audiolm_jax.evaluation.clips import pieces_to_continue
from audiolm_jax.evaluation.detection_scores import Scores
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, skipped
from audiolm_jax.io import audio
from audiolm_jax.trainables.detection_corpus import CorpusConfig, Pair, make_pairs

Degradation = Callable[[Float[np.ndarray, "samples"]], Float[np.ndarray, "samples"]]

ACCURACY = Metric("detection_accuracy", "accuracy")
EQUAL_ERROR_RATE = Metric("equal_error_rate", "equal error rate", Better.LOWER)
AREA = Metric("roc_area", "area under the ROC")
RECORDINGS_RIGHT = Metric("recordings_right", "recordings without the codec classified as real")
OTHERS_FOUND = Metric("others_found", "samples of another bundle classified as synthetic")

PAPER_ACCURACY = 0.986
_LENGTHS = (0.5, 2.0, 5.0)  # seconds


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the bundle's detector on continuations of held-out prompts.

  If the options name another bundle, the detector also classifies continuations by that bundle.
  """
  detector = bundle.detector
  if detector is None:
    return skipped(f"{bundle.name} has no detector")
  config = CorpusConfig(prompt_seconds=options.prompt_seconds, duration=options.duration)
  pieces = pieces_to_continue(options, bundle.sample_rate, 1.0)

  def pairs_of(maker: Bundle, watermark: str | None = "off") -> list[Pair]:
    own = dataclasses.replace(config, watermark=watermark)
    given = [audio.resample(p.waveform, bundle.sample_rate, maker.sample_rate) for p in pieces]
    made = make_pairs(maker, given, own, options.seed)
    rates = maker.sample_rate, detector.sample_rate
    return [Pair(*(audio.resample(sound, *rates) for sound in pair)) for pair in made]

  others = [bundles.load_bundle(options.other_bundle)] if options.other_bundle else []
  return detection_suite(
    detector,
    pairs_of(bundle),
    detector.sample_rate,
    {maker.name: pairs_of(maker) for maker in others},
    marked=[] if bundle.watermark is None else pairs_of(bundle, None),
  )


def detection_suite(
  detector: Detector,
  pairs: Sequence[Pair],
  sample_rate: int,
  other: Mapping[str, Sequence[Pair]] | None = None,
  *,
  marked: Sequence[Pair] = (),
) -> SuiteResult:
  """Measures accuracy, equal error rate and ROC on pieces of 1 s.

  Accuracy is also measured on pieces of other lengths, after degradations and with the watermark.
  Other rows have the share of correct verdicts on recordings without the codec, and on samples of
  other bundles. Intervals are over prompts: the pieces of a prompt are resampled together.

  Args:
    detector: the detector.
    pairs: real and synthetic continuations, by speakers that the detector was not trained on.
    sample_rate: sample rate of the detector and of all continuations in Hz.
    other: continuations of these prompts by other bundles, by bundle name; None for no other
      bundles.
    marked: continuations of these prompts with the watermark of the bundle.

  Raises:
    DataError: no continuation has a length of 1 s or more.
  """
  kept = [pair for pair in pairs if len(pair.codec) >= sample_rate]
  if not kept:
    raise DataError("no recording is a second longer than its prompt")
  real, synthetic = _both(kept, 1.0, sample_rate)
  scores = Scores.of(detector, real, synthetic)
  rows = [
    Row(ACCURACY, scores.accuracy(), "1 s", floor=0.9, aim=PAPER_ACCURACY),
    Row(EQUAL_ERROR_RATE, scores.equal_error_rate(), "1 s"),
    Row(AREA, scores.area(), "1 s"),
  ]
  for seconds in _LENGTHS:
    of_length = Scores.of(detector, *_both(kept, seconds, sample_rate))
    if of_length.prompts:
      rows.append(Row(ACCURACY, of_length.accuracy(), f"{seconds:g} s"))
  whole = Scores.of(
    detector, [[pair.codec] for pair in kept], [list(pair.continuations) for pair in kept]
  )
  rows.append(Row(ACCURACY, whole.accuracy(), "whole continuations"))
  originals = [_cut([pair.original], 1.0, sample_rate) for pair in kept]
  unchanged = Scores.of(detector, originals, synthetic)
  rows.append(Row(RECORDINGS_RIGHT, unchanged.share_right(synthetic=False), "1 s"))
  for name, degrade in _degradations(sample_rate).items():
    degraded = [[[degrade(p) for p in pieces] for pieces in group] for group in (real, synthetic)]
    rows.append(Row(ACCURACY, Scores.of(detector, *degraded).accuracy(), f"1 s, {name}"))
  if marked:
    with_mark = Scores.of(detector, *_both(marked, 1.0, sample_rate))
    rows.append(Row(ACCURACY, with_mark.accuracy(), "1 s, with the watermark"))
  for name, made in (other or {}).items():
    found = Scores.of(detector, *_both(made, 1.0, sample_rate)).share_right(synthetic=True)
    rows.append(Row(OTHERS_FOUND, found, f"{name}, 1 s"))
  return SuiteResult(rows, {"roc": scores.roc(), "prompts": len(kept), "scores": scores.groups})


def _both(
  pairs: Sequence[Pair], seconds: float, sample_rate: int
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
  """Returns the real and the synthetic pieces of `seconds` length, grouped by prompt."""
  return (
    [_cut([pair.codec], seconds, sample_rate) for pair in pairs],
    [_cut(pair.continuations, seconds, sample_rate) for pair in pairs],
  )


def _cut(waveforms: Iterable[np.ndarray], seconds: float, sample_rate: int) -> list[np.ndarray]:
  """Cuts waveforms into pieces without overlap; the remainder at the end is dropped."""
  length = round(seconds * sample_rate)
  return [w[i : i + length] for w in waveforms for i in range(0, len(w) - length + 1, length)]


def _degradations(sample_rate: int) -> dict[str, Degradation]:
  """Returns degradations by name; the bit rates in the names are for a sample rate of 16 kHz."""

  def compressed(codec: str, level: float) -> Degradation:
    return lambda waveform: degradations.compress(waveform, sample_rate, codec, level)[0]

  return {
    "MP3 at 41 kbit/s": compressed("mp3", 0.8),
    "MP3 at 24 kbit/s": compressed("mp3", 0.9),
    "Opus at 24 kbit/s": compressed("opus", 0.93),
    "Opus at 12 kbit/s": compressed("opus", 0.98),
    "noise at 30 dB": lambda w: degradations.add_noise(w, 30.0, len(w)),
    "noise at 15 dB": lambda w: degradations.add_noise(w, 15.0, len(w)),
    "through 8 kHz": lambda w: degradations.narrow(w, sample_rate, 8_000),
    "through 44.1 kHz": lambda w: degradations.narrow(w, sample_rate, 44_100),
  }
