"""How well a detector tells a bundle's samples from recordings, and what makes it err.

Source of the protocol: AudioLM, the detection of its own samples: pieces of one second, as many
real as synthetic, the real ones through the codec, speakers unknown to the detector.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from audiolm_jax import bundles
from audiolm_jax.core.errors import DataError
from audiolm_jax.detection.detector import Detector
from audiolm_jax.evaluation import degradations
from audiolm_jax.evaluation.clips import pieces_to_continue
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, left_out
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate
from audiolm_jax.io import audio
from audiolm_jax.trainables.detection_corpus import CorpusConfig, Pair, make_pairs

Change = Callable[[Float[np.ndarray, "samples"]], Float[np.ndarray, "samples"]]

PAPER_ACCURACY = 0.986
_LENGTHS = (0.5, 2.0, 5.0)
_FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def run(bundle: Any, options: Options) -> SuiteResult:
  """Continues new prompts by the bundle and, if one is given, by another one."""
  if bundle.detector is None:
    return left_out(f"{bundle.name} has no detector")
  config = CorpusConfig(prompt_seconds=options.prompt_seconds, duration=options.duration)
  pieces = pieces_to_continue(options, bundle.sample_rate, 1.0)

  def pairs_of(maker: Any) -> list[Pair]:
    heard = [audio.resample(p.waveform, bundle.sample_rate, maker.sample_rate) for p in pieces]
    made = make_pairs(maker, heard, config, options.seed)
    rates = maker.sample_rate, bundle.detector.sample_rate
    return [Pair(*(audio.resample(sound, *rates) for sound in pair)) for pair in made]

  others = [bundles.load_bundle(options.other_bundle)] if options.other_bundle else []
  return detection_suite(
    bundle.detector,
    pairs_of(bundle),
    bundle.detector.sample_rate,
    {maker.name: pairs_of(maker) for maker in others},
  )


def detection_suite(
  detector: Detector,
  pairs: Sequence[Pair],
  sample_rate: int,
  other: Mapping[str, Sequence[Pair]] | None = None,
) -> SuiteResult:
  """Accuracy, equal error rate and ROC on pieces of a second; then all that may make them worse.

  Intervals are over prompts, whose pieces are drawn together.

  Args:
    pairs: at the detector's rate, of speakers that it has not heard.
    other: what other bundles make of the same prompts, by their names.
  Raises:
    DataError: no pair lasts a second.
  """
  kept = [pair for pair in pairs if len(pair.codec) >= sample_rate]
  if not kept:
    raise DataError("no recording lasts a second beyond its prompt")
  real, synthetic = _both(kept, 1.0, sample_rate)
  scores = Scores.of(detector, real, synthetic)
  rows = [
    Row("detection", "accuracy, 1 s", scores.accuracy(), floor=0.9, aim=PAPER_ACCURACY),
    Row("detection", "equal error rate, 1 s", scores.equal_error_rate(), Better.LOWER),
    Row("detection", "area under the ROC, 1 s", scores.area()),
  ]
  for seconds in _LENGTHS:
    of_length = Scores.of(detector, *_both(kept, seconds, sample_rate))
    if of_length.prompts:
      rows.append(Row("detection", f"accuracy, {seconds:g} s", of_length.accuracy()))
  whole = Scores.of(
    detector, [[pair.codec] for pair in kept], [list(pair.continuations) for pair in kept]
  )
  rows.append(Row("detection", "accuracy, whole continuations", whole.accuracy()))
  originals = [_cut([pair.original], 1.0, sample_rate) for pair in kept]
  unchanged = Scores.of(detector, originals, synthetic)
  figure = "recordings without the codec taken for real, 1 s"
  rows.append(Row("detection", figure, unchanged.share_right(synthetic=False)))
  for name, change in _changes(sample_rate).items():
    changed = [[[change(p) for p in pieces] for pieces in group] for group in (real, synthetic)]
    rows.append(
      Row("detection", f"accuracy, 1 s, {name}", Scores.of(detector, *changed).accuracy())
    )
  for name, made in (other or {}).items():
    found = Scores.of(detector, *_both(made, 1.0, sample_rate)).share_right(synthetic=True)
    rows.append(Row("detection", f"samples of {name} taken for synthetic, 1 s", found))
  return SuiteResult(rows, {"roc": scores.roc(), "prompts": len(kept), "scores": scores.groups})


class Scores:
  """Log odds of pieces, grouped by prompt.

  Attributes:
    groups: for each prompt that has pieces of both kinds, the log odds of either.
  """

  def __init__(self, groups: Sequence[tuple[np.ndarray, np.ndarray]]):
    self.groups = [(a, b) for a, b in groups if len(a) and len(b)]

  @classmethod
  def of(
    cls,
    detector: Detector,
    real: Sequence[Sequence[Float[np.ndarray, "samples"]]],
    synthetic: Sequence[Sequence[Float[np.ndarray, "samples"]]],
  ) -> "Scores":
    """Listens to pieces given by prompt; silent ones are left out."""
    flat = [piece for group in (*real, *synthetic) for piece in group]
    odds = detector.score(flat) if flat else np.zeros(0)
    ends = np.cumsum([len(group) for group in (*real, *synthetic)])[:-1]
    parts = [part[np.isfinite(part)] for part in np.split(odds, ends)]
    return cls(list(zip(parts[: len(real)], parts[len(real) :], strict=True)))

  @property
  def prompts(self) -> int:
    """How many prompts there are."""
    return len(self.groups)

  def share_right(self, *, synthetic: bool) -> Estimate:
    """Of the pieces of one kind, how many are taken for what they are."""
    return self._estimate(lambda real, made: _right(made if synthetic else real, synthetic).mean())

  def accuracy(self) -> Estimate:
    """As many real as synthetic pieces: the mean of both shares."""
    return self._estimate(
      lambda real, made: (_right(real, False).mean() + _right(made, True).mean()) / 2
    )

  def equal_error_rate(self) -> Estimate:
    """The share of errors where the threshold makes it the same for both kinds."""
    return self._estimate(equal_error_rate)

  def area(self) -> Estimate:
    """How often a synthetic piece has higher odds than a real one, ties counted half."""
    return self._estimate(area_under_roc)

  def roc(self) -> list[dict[str, Any]]:
    """Synthetic pieces found, with its interval, by the share of real ones taken for synthetic."""
    return [
      {"false_alarms": share, "found": self._estimate(functools.partial(found_at, share))}
      for share in _FALSE_ALARMS
    ]

  def _estimate(self, statistic: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
    def of(prompts: np.ndarray) -> float:
      chosen = [self.groups[i] for i in prompts]
      return float(statistic(*(np.concatenate(part) for part in zip(*chosen, strict=True))))

    return bootstrap_estimate(of, len(self.groups), reflected=False)


def equal_error_rate(
  real: Float[np.ndarray, "pieces"], synthetic: Float[np.ndarray, "pieces"]
) -> float:
  """The error rate at the threshold where false alarms and misses are nearest to each other."""
  thresholds = np.unique(np.concatenate([real, synthetic, [np.inf]]))
  misses = np.searchsorted(np.sort(synthetic), thresholds) / len(synthetic)
  alarms = 1.0 - np.searchsorted(np.sort(real), thresholds) / len(real)
  best = np.argmin(np.abs(misses - alarms))
  return float((misses[best] + alarms[best]) / 2)


def area_under_roc(
  real: Float[np.ndarray, "pieces"], synthetic: Float[np.ndarray, "pieces"]
) -> float:
  """The share of pairs in which the synthetic one has the higher odds, ties counted half."""
  ordered = np.sort(real)
  below = np.searchsorted(ordered, synthetic, side="left")
  not_above = np.searchsorted(ordered, synthetic, side="right")
  return float((below + not_above).mean() / (2 * len(real)))


def found_at(
  false_alarms: float, real: Float[np.ndarray, "pieces"], synthetic: Float[np.ndarray, "pieces"]
) -> float:
  """The share of synthetic pieces above a threshold that at most so many real ones pass."""
  allowed = min(int(false_alarms * len(real) + 1e-9), len(real) - 1)
  threshold = np.sort(real)[::-1][allowed]
  return float((synthetic > threshold).mean())


def _right(odds: np.ndarray, synthetic: bool) -> Bool[np.ndarray, "pieces"]:
  return (odds >= 0) == synthetic


def _both(
  pairs: Sequence[Pair], seconds: float, sample_rate: int
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
  """Pieces of the real and of the synthetic class, by prompt."""
  return (
    [_cut([pair.codec], seconds, sample_rate) for pair in pairs],
    [_cut(pair.continuations, seconds, sample_rate) for pair in pairs],
  )


def _cut(waveforms: Iterable[np.ndarray], seconds: float, sample_rate: int) -> list[np.ndarray]:
  """Whole pieces of so many seconds, side by side."""
  length = round(seconds * sample_rate)
  return [w[i : i + length] for w in waveforms for i in range(0, len(w) - length + 1, length)]


def _changes(sample_rate: int) -> dict[str, Change]:
  """By the name that a reader knows; the bit rates are those at 16 kHz."""

  def compressed(codec: str, level: float) -> Change:
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
