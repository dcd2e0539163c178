"""A figure with how many observations it rests on and a bootstrap interval."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A statistic and its 95 % interval.

  Attributes:
    value: the statistic on all observations; NaN when there are none.
    low: lower end of the bootstrap interval.
    high: upper end.
    n: independent observations (clips, sentences), those that are NaN left out.
  """

  value: float
  low: float
  high: float
  n: int

  def __str__(self) -> str:
    return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


def mean_estimate(values: Sequence[float] | Float[np.ndarray, " n"], seed: int = 0) -> Estimate:
  """Mean of `values` with a percentile bootstrap interval; NaN values are left out.

  Source: Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3.
  """
  array = np.asarray(values, np.float64)
  array = array[np.isfinite(array)]
  if not len(array):
    return Estimate(float("nan"), float("nan"), float("nan"), 0)
  means = [float(array[rows].mean()) for rows in _draws(len(array), seed)]
  low, high = np.quantile(means, _tails())
  return Estimate(float(array.mean()), float(low), float(high), len(array))


def defined_mean(values: Sequence[float] | Float[np.ndarray, " n"]) -> float:
  """Mean of the values that are finite; NaN where none is."""
  array = np.asarray(values, np.float64)
  array = array[np.isfinite(array)]
  return float(array.mean()) if len(array) else float("nan")


def bootstrap_estimate(
  statistic: Callable[[Int[np.ndarray, " n"]], float],
  n: int,
  seed: int = 0,
  *,
  reflected: bool = True,
) -> Estimate:
  """Any statistic of `n` observations with a bootstrap interval.

  Args:
    statistic: value on the observations with these indices (repeats allowed).
    n: number of observations.
    reflected: the basic interval, which reflects the resampled values about the statistic and so
      mends the bias of statistics such as entropy; otherwise the percentile interval, which stays
      within bounds, as shares must.
  Source: Davison and Hinkley, Bootstrap Methods and their Application, sections 5.2 and 5.3.
  """
  if n == 0:
    return Estimate(float("nan"), float("nan"), float("nan"), 0)
  value = float(statistic(np.arange(n)))
  resampled = np.array([statistic(rows) for rows in _draws(n, seed)], np.float64)
  low, high = np.nanquantile(resampled, _tails())
  if reflected:
    low, high = 2 * value - high, 2 * value - low
  return Estimate(value, float(low), float(high), n)


def ratio_estimate(counts: Int[np.ndarray, "n 2"]) -> Estimate:
  """Sum of the first column over that of the second, such as all errors over all words.

  Observations that are 0 in both are left out; NaN where the second column is 0 throughout.
  """
  counts = counts[counts.any(axis=1)]
  if not counts[:, 1].any():
    return mean_estimate([])

  def ratio(rows: Int[np.ndarray, " n"]) -> float:
    above, below = counts[rows].sum(axis=0)
    return float(above / below) if below else float("nan")

  return bootstrap_estimate(ratio, len(counts), reflected=False)


def _draws(n: int, seed: int) -> Int[np.ndarray, "resamples n"]:
  return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _tails() -> tuple[float, float]:
  return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
