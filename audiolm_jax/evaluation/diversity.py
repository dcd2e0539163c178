"""How much samples of one prompt differ, beside samples of different prompts."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from audiolm_jax.evaluation.statistics import Estimate, defined_mean, mean_estimate


@dataclasses.dataclass(frozen=True)
class Diversity:
  """Mean distances, over prompts.

  Attributes:
    within: of the samples of one prompt from each other; 0 where they are all alike.
    between: of the samples of a prompt from those of the others.
  """

  within: Estimate
  between: Estimate


def diversity(samples: Sequence[Sequence[Any]], distance: Callable[[Any, Any], float]) -> Diversity:
  """Compares all pairs of samples.

  Args:
    samples: of each prompt as many as there are, in any form that `distance` takes; with one sample
      of each there is no distance within, with one prompt none between.
    distance: of two samples, symmetric; NaN where there is none.
  """
  within = [
    defined_mean([distance(a, b) for a, b in itertools.combinations(group, 2)]) for group in samples
  ]
  table = np.full((len(samples), len(samples)), np.nan)
  for i, j in itertools.combinations(range(len(samples)), 2):
    pairs = itertools.product(samples[i], samples[j])
    table[i, j] = table[j, i] = defined_mean([distance(a, b) for a, b in pairs])
  return Diversity(mean_estimate(within), mean_estimate([defined_mean(row) for row in table]))
