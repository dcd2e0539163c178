"""A linear projection of features on what a codec encodes at the same time.

Clusters of projected features differ in how they sound. Without the projection, k-means spends most
of its clusters on directions of the features in which sounds hardly differ.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError
from audiolm_jax.semantic.kmeans import check_finite


class FeatureProjection(NamedTuple):
  """Maps features to `(features - mean) @ matrix`."""

  mean: Float[np.ndarray, "dim"]
  matrix: Float[np.ndarray, "dim projected"]


def fit_projection(
  pieces: Iterable[tuple[Float[np.ndarray, "_ dim"], Float[np.ndarray, "_ projected"]]],
  ridge: float = 0.01,
) -> FeatureProjection:
  """Fits the targets by ridge regression on the features, both without their means.

  Args:
    pieces: features and targets of the same steps.
    ridge: squared-norm penalty, as a share of the mean variance of the features.

  Raises:
    DataError: there are fewer steps than dimensions, or a value is not finite.
  """
  count = 0
  sums: list[np.ndarray] = []
  for features, targets in pieces:
    check_finite(features)
    check_finite(targets)
    x, y = features.astype(np.float64), targets.astype(np.float64)
    found = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
    sums = [old + new for old, new in zip(sums, found, strict=True)] if sums else found
    count += len(x)
  dim = len(sums[0]) if sums else 0
  if count <= dim:
    raise DataError(f"{count} steps are too few to project {dim} features; use more audio")
  mean, target_mean = sums[0] / count, sums[1] / count
  covariance = sums[2] / count - np.outer(mean, mean)
  shared = sums[3] / count - np.outer(mean, target_mean)
  penalty = ridge * max(float(np.trace(covariance)) / dim, 1e-12)
  matrix = np.linalg.solve(covariance + penalty * np.eye(dim), shared)
  return FeatureProjection(mean.astype(np.float32), matrix.astype(np.float32))
