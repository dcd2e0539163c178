"""Differences between samples of one prompt, compared with samples of different prompts."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from audiolm_jax.evaluation.statistics import Estimate, defined_mean, mean_estimate

Sample = TypeVar("Sample")


@dataclasses.dataclass(frozen=True)
class Diversity:
  """Mean distances over prompts.

  Attributes:
    within: distance between samples of one prompt; 0 if they are all the same.
    between: distance of the samples of a prompt from those of the other prompts.
  """

  within: Estimate
  between: Estimate


def diversity(
  samples: Sequence[Sequence[Sample]], distance: Callable[[Sample, Sample], float]
) -> Diversity:
  """Compares all pairs of samples.

  Args:
    samples: for each prompt its samples, in any form that `distance` accepts. With one sample of
      each prompt `within` is NaN, with one prompt `between` is NaN.
    distance: symmetric distance of two samples; NaN if it is not defined.
  """
  within = [
    defined_mean([distance(a, b) for a, b in itertools.combinations(group, 2)]) for group in samples
  ]
  table = np.full((len(samples), len(samples)), np.nan)
  for i, j in itertools.combinations(range(len(samples)), 2):
    pairs = itertools.product(samples[i], samples[j])
    table[i, j] = table[j, i] = defined_mean([distance(a, b) for a, b in pairs])
  return Diversity(mean_estimate(within), mean_estimate([defined_mean(row) for row in table]))
