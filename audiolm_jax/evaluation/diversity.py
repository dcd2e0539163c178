"""Distances between samples of one prompt, and between samples of different prompts."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from audiolm_jax.evaluation.statistics import Estimate, defined_mean, mean_estimate

Sample = TypeVar("Sample")


@dataclasses.dataclass(frozen=True)
class Diversity:
  """Mean distances between samples, averaged over prompts.

  Attributes:
    within: mean distance between samples of one prompt; 0 if all samples of a prompt are equal.
    between: mean distance between samples of different prompts.
  """

  within: Estimate
  between: Estimate


def diversity(
  samples: Sequence[Sequence[Sample]], distance: Callable[[Sample, Sample], float]
) -> Diversity:
  """Returns the mean distance within each prompt and between prompts, averaged over prompts.

  Args:
    samples: samples of each prompt, of any type that `distance` accepts. With one sample per
      prompt, `within` is NaN; with one prompt, `between` is NaN.
    distance: function that returns the symmetric distance of two samples; NaN if the distance is
      undefined.
  """
  within = [
    defined_mean([distance(a, b) for a, b in itertools.combinations(group, 2)]) for group in samples
  ]
  table = np.full((len(samples), len(samples)), np.nan)
  for i, j in itertools.combinations(range(len(samples)), 2):
    pairs = itertools.product(samples[i], samples[j])
    table[i, j] = table[j, i] = defined_mean([distance(a, b) for a, b in pairs])
  return Diversity(mean_estimate(within), mean_estimate([defined_mean(row) for row in table]))
