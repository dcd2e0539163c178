"""The projection of features on what a codec encodes."""

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.semantic.projection import fit_projection


def test_a_linear_map_is_found_from_pieces_and_noise_is_left_out():
  rng = np.random.default_rng(0)
  features = rng.normal(3.0, 1.0, (6_000, 8)).astype(np.float32)
  matrix = rng.normal(size=(8, 3))
  matrix[5:] = 0  # the last features do not influence the targets
  targets = (features @ matrix + 7 + 0.1 * rng.normal(size=(6_000, 3))).astype(np.float32)
  pieces = zip(np.array_split(features, 9), np.array_split(targets, 9), strict=True)
  found = fit_projection(pieces, ridge=1e-4)
  np.testing.assert_allclose(found.mean, features.mean(0), atol=1e-4)
  np.testing.assert_allclose(found.matrix, matrix, atol=0.01)
  assert found.matrix.dtype == found.mean.dtype == np.float32


def test_the_penalty_is_relative_to_the_variance_of_the_features():
  rng = np.random.default_rng(1)
  features, targets = rng.normal(size=(500, 4)), rng.normal(size=(500, 2))
  small = fit_projection([(features, targets)], ridge=0.5)
  large = fit_projection([(1_000 * features, targets)], ridge=0.5)
  np.testing.assert_allclose(1_000 * large.matrix, small.matrix, rtol=1e-3)
  free = fit_projection([(features, targets)], ridge=0.0)
  assert np.linalg.norm(small.matrix) < 0.8 * np.linalg.norm(free.matrix)


def test_too_few_steps_and_infinite_features_are_refused():
  with pytest.raises(DataError, match="3 steps are too few to project 4 features"):
    fit_projection([(np.zeros((3, 4)), np.zeros((3, 1)))])
  with pytest.raises(DataError, match="0 steps are too few"):
    fit_projection([])
  with pytest.raises(DataError, match="NaN or infinite"):
    fit_projection([(np.full((9, 4), np.inf), np.zeros((9, 1)))])
