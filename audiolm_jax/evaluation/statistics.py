"""Estimates: a statistic, its number of observations and a bootstrap interval."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import SupportsFloat

import numpy as np
from jaxtyping import Int, Num, Shaped

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A statistic and its 95 % interval.

  Attributes:
    value: the statistic of all observations; NaN if it is undefined.
    low: lower end of the bootstrap interval.
    high: upper end of the bootstrap interval.
    n: number of independent observations (clips, sentences) that are not NaN.
  """

  value: float
  low: float
  high: float
  n: int

  def __str__(self) -> str:
    return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"

  def mapped(self, function: Callable[[float], float]) -> "Estimate":
    """Applies a monotonic function to the statistic and its interval, and returns the result."""
    ends = function(self.low), function(self.high)
    return Estimate(function(self.value), min(ends), max(ends), self.n)


def exact(value: float, n: int = 1) -> Estimate:
  """Returns an estimate without an interval, for a value without sampling error."""
  return Estimate(float(value), float(value), float(value), n)


def undefined(n: int = 0) -> Estimate:
  """Returns the estimate of an undefined statistic: value and interval are NaN."""
  return exact(float("nan"), n)


def mean_estimate(
  values: Sequence[SupportsFloat] | Shaped[np.ndarray, " n"], seed: int = 0
) -> Estimate:
  """Returns the mean of the finite values with a percentile bootstrap interval.

  Source: Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3.
  """
  array = np.asarray(values, np.float64)
  array = array[np.isfinite(array)]
  return bootstrap_estimate(lambda rows: array[rows].mean(), len(array), seed, reflected=False)


def defined_mean(values: Sequence[float] | Num[np.ndarray, " n"]) -> float:
  """Returns the mean of the finite values; NaN if no value is finite."""
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
  """Returns a statistic of `n` observations with a bootstrap interval; NaN if `n` is 0.

  Args:
    statistic: function that receives indices of observations, possibly with repeats, and returns
      the value for these observations.
    n: number of observations.
    seed: seed of the resampling.
    reflected: True for the basic interval, which reflects the resampled values about the statistic
      and so corrects the bias of statistics such as entropy. False for the percentile interval,
      which stays within the range of the statistic, as a share requires.

  Source: Davison and Hinkley, Bootstrap Methods and their Application, sections 5.2 and 5.3.
  """
  if n == 0:
    return undefined()
  value = float(statistic(np.arange(n)))
  resampled = np.array([statistic(rows) for rows in _draws(n, seed)], np.float64)
  low, high = np.nanquantile(resampled, _tails())
  if reflected:
    low, high = 2 * value - high, 2 * value - low
  return Estimate(value, float(low), float(high), n)


def ratio_estimate(counts: Int[np.ndarray, "n 2"]) -> Estimate:
  """Returns the sum of column 0 divided by the sum of column 1, such as errors per word.

  Rows with two zeros are ignored. The value is NaN if the sum of column 1 is 0.
  """
  counts = counts[counts.any(axis=1)]
  if not counts[:, 1].any():
    return undefined()

  def ratio(rows: Int[np.ndarray, " n"]) -> float:
    above, below = counts[rows].sum(axis=0)
    return float(above / below) if below else float("nan")

  return bootstrap_estimate(ratio, len(counts), reflected=False)


def _draws(n: int, seed: int) -> Int[np.ndarray, "resamples n"]:
  return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _tails() -> tuple[float, float]:
  return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
