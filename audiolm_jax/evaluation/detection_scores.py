"""Accuracy, equal error rate and ROC of a detector's scores, with intervals over prompts."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from audiolm_jax.core.configs import JsonDict
from audiolm_jax.detection.detector import Detector
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate

_FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class Scores:
  """A detector's log odds for pieces of audio, grouped by prompt.

  A piece with log odds of 0 or more is classified as synthetic. For intervals, the pieces of a
  prompt are resampled together.

  Attributes:
    groups: log odds of the real and of the synthetic pieces, for each prompt that has both classes.
  """

  def __init__(self, groups: Sequence[tuple[np.ndarray, np.ndarray]]):
    self.groups = [(a, b) for a, b in groups if len(a) and len(b)]

  @classmethod
  def of(
    cls,
    detector: Detector,
    real: Sequence[Sequence[Float[np.ndarray, "_"]]],
    synthetic: Sequence[Sequence[Float[np.ndarray, "_"]]],
  ) -> "Scores":
    """Scores the pieces of each prompt; silent pieces are ignored.

    Raises:
      AudioError: a piece is shorter than 0.1 s.
    """
    flat = [piece for group in (*real, *synthetic) for piece in group]
    odds = detector.score(flat) if flat else np.zeros(0)
    ends = np.cumsum([len(group) for group in (*real, *synthetic)])[:-1]
    parts = [part[np.isfinite(part)] for part in np.split(odds, ends)]
    return cls(list(zip(parts[: len(real)], parts[len(real) :], strict=True)))

  @property
  def prompts(self) -> int:
    """The number of prompts with pieces of both classes."""
    return len(self.groups)

  def share_right(self, *, synthetic: bool) -> Estimate:
    """Returns the share of correctly classified pieces among the synthetic or the real pieces."""
    return self._estimate(lambda real, made: _right(made if synthetic else real, synthetic).mean())

  def accuracy(self) -> Estimate:
    """Returns the balanced accuracy, which is the mean of the accuracies on both classes."""
    return self._estimate(
      lambda real, made: (_right(real, False).mean() + _right(made, True).mean()) / 2
    )

  def equal_error_rate(self) -> Estimate:
    """Returns the equal error rate; see the function `equal_error_rate` of this module."""
    return self._estimate(equal_error_rate)

  def area(self) -> Estimate:
    """Returns the area under the ROC curve; see `area_under_roc`."""
    return self._estimate(area_under_roc)

  def roc(self) -> list[JsonDict]:
    """Returns the share of synthetic pieces that are found, for several shares of false alarms."""
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
  real: Float[np.ndarray, "pieces"], synthetic: Float[np.ndarray, "others"]
) -> float:
  """Returns the mean of the false alarm and miss rates at the threshold where they differ least."""
  thresholds = np.unique(np.concatenate([real, synthetic, [np.inf]]))
  misses = np.searchsorted(np.sort(synthetic), thresholds) / len(synthetic)
  alarms = 1.0 - np.searchsorted(np.sort(real), thresholds) / len(real)
  best = np.argmin(np.abs(misses - alarms))
  return float((misses[best] + alarms[best]) / 2)


def area_under_roc(
  real: Float[np.ndarray, "pieces"], synthetic: Float[np.ndarray, "others"]
) -> float:
  """Returns how often a synthetic piece has higher log odds than a real piece; ties count half."""
  ordered = np.sort(real)
  below = np.searchsorted(ordered, synthetic, side="left")
  not_above = np.searchsorted(ordered, synthetic, side="right")
  return float((below + not_above).mean() / (2 * len(real)))


def found_at(
  false_alarms: float, real: Float[np.ndarray, "pieces"], synthetic: Float[np.ndarray, "others"]
) -> float:
  """Returns the share of synthetic pieces found with at most a given share of false alarms."""
  allowed = min(int(false_alarms * len(real) + 1e-9), len(real) - 1)
  threshold = np.sort(real)[::-1][allowed]
  return float((synthetic > threshold).mean())


def _right(odds: np.ndarray, synthetic: bool) -> Bool[np.ndarray, "pieces"]:
  return (odds >= 0) == synthetic
