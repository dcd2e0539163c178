import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.semantic.kmeans import (
  count_duplicates,
  fit_kmeans,
  nearest_centroid,
  nearest_of_close_centroids,
  whitening,
)

CENTRES = np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8], [8, 8, 8]], np.float32)


def blobs(per_cluster=200, seed=0):
  rng = np.random.default_rng(seed)
  labels = np.repeat(np.arange(len(CENTRES)), per_cluster)
  return CENTRES[labels] + 0.3 * rng.standard_normal((len(labels), 3)).astype(np.float32), labels


@pytest.mark.parametrize("batch_size", [64, 4096])
def test_separated_clusters_are_found_whatever_the_batch(batch_size):
  frames, labels = blobs()
  fitted = fit_kmeans(frames, 5, seed=1, batch_size=batch_size)
  ids = np.asarray(nearest_centroid((frames - fitted.mean) / fitted.scale, fitted.centroids))
  for label in range(5):
    assert len(set(ids[labels == label])) == 1
  assert len(set(ids)) == 5
  report = fitted.report
  assert sorted(report.usage) == [200] * 5 and report.dead == 0 and report.duplicate == 0
  assert report.inertia[-1] < 0.1 and report.inertia[-1] <= report.inertia[0] + 1e-6
  np.testing.assert_allclose(report.perplexity, 5.0, rtol=1e-5)
  assert "perplexity 5.0" in str(report)


def test_whitening_makes_every_dimension_count_alike():
  rng = np.random.default_rng(0)
  frames = rng.standard_normal((2000, 3)).astype(np.float32) * [1e-3, 1.0, 1e4] + [5.0, -1.0, 1e5]
  mean, scale = whitening(frames.astype(np.float32))
  whitened = (frames - mean) / scale
  np.testing.assert_allclose(whitened.mean(0), 0.0, atol=0.02)
  np.testing.assert_allclose(whitened.std(0), 1.0, rtol=0.02)
  assert whitening(np.full((10, 2), 3.0, np.float32))[1].tolist() == [1.0, 1.0]


def test_dead_and_duplicate_clusters_are_reported():
  frames = np.repeat(CENTRES, 100, axis=0)  # five places for eight centroids
  report = fit_kmeans(frames, 8, seed=0).report
  assert report.dead + 5 >= 8
  assert report.duplicate >= 3
  assert count_duplicates(np.concatenate([CENTRES, CENTRES[:2]])) == 2
  assert count_duplicates(CENTRES) == 0


def test_pieces_equal_one_array_and_the_seed_decides():
  frames, _ = blobs()
  whole = fit_kmeans(frames, 7, seed=3)
  pieces = fit_kmeans(iter(np.array_split(frames, 9)), 7, seed=3)
  np.testing.assert_array_equal(whole.centroids, pieces.centroids)
  assert not np.array_equal(whole.centroids, fit_kmeans(frames, 7, seed=4).centroids)


def test_a_bounded_sample_of_many_frames_is_kept():
  frames, _ = blobs()
  report = fit_kmeans(iter(np.array_split(frames, 20)), 5, seed=0, max_frames=300).report
  assert report.num_frames == 300
  assert min(report.usage) > 20


def test_idle_centroids_are_put_to_use():
  rng = np.random.default_rng(0)
  frames = np.concatenate([rng.normal(0, 0.01, (5000, 2)), rng.normal(5, 1.0, (50, 2))])
  report = fit_kmeans(frames.astype(np.float32), 16, seed=0, batch_size=512).report
  assert report.dead == 0


def test_too_few_or_broken_frames_are_refused():
  with pytest.raises(DataError, match="3 frames are too few for 4"):
    fit_kmeans(np.zeros((3, 2), np.float32), 4)
  with pytest.raises(DataError, match="NaN"):
    fit_kmeans(np.full((30, 2), np.nan, np.float32), 4)
  with pytest.raises(DataError, match="no features"):
    fit_kmeans(iter([]), 4)


def test_the_nearest_of_close_centroids_is_found_where_products_are_too_coarse():
  rng = np.random.default_rng(0)
  place = 5 * rng.normal(size=16)  # far from the origin, as seen from within the cluster
  centroids = (place + 0.005 * rng.normal(size=(6, 16))).astype(np.float32)
  frames = (place + 0.005 * rng.normal(size=(200, 16))).astype(np.float32)
  distance = np.square(frames.astype(np.float64)[:, None] - centroids).sum(-1)
  nearest = distance.argmin(-1)
  np.testing.assert_array_equal(nearest_of_close_centroids(frames, centroids), nearest)
  assert (np.asarray(nearest_centroid(frames, centroids)) != nearest).any()
