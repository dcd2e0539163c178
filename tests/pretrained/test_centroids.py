import pickle

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.pretrained.centroids import read_centroids


def test_centroids_are_read_as_float32(tmp_path):
  centroids = np.random.default_rng(0).standard_normal((5, 3))
  np.savez(tmp_path / "c.npz", centroids=centroids)
  found = read_centroids(tmp_path / "c.npz")
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, centroids.astype(np.float32))


def test_a_pickle_is_not_opened(tmp_path):
  class Bomb:
    def __reduce__(self):
      return (open, (str(tmp_path / "exploded"), "w"))

  (tmp_path / "km.bin").write_bytes(pickle.dumps(Bomb()))
  with pytest.raises(UserError, match="may run any code"):
    read_centroids(tmp_path / "km.bin")
  np.savez(tmp_path / "object.npz", centroids=np.array([Bomb()], object))
  with pytest.raises(UserError, match="no array 'centroids'"):
    read_centroids(tmp_path / "object.npz")
  assert not (tmp_path / "exploded").exists()


def test_what_holds_no_centroids_is_named(tmp_path):
  for name, arrays, words in (
    ("other", {"means": np.zeros((2, 2))}, "no array 'centroids'"),
    ("flat", {"centroids": np.zeros(4)}, r"float64 of shape \(4,\)"),
    ("whole", {"centroids": np.zeros((2, 2), int)}, "int64 of shape"),
    ("nan", {"centroids": np.full((2, 2), np.nan)}, "NaN or beyond"),
    ("vast", {"centroids": np.full((2, 2), 1e300)}, "NaN or beyond"),
  ):
    np.savez(tmp_path / f"{name}.npz", **arrays)  # pyright: ignore[reportArgumentType]: names of arrays
    with pytest.raises(UserError, match=words) as caught:
      read_centroids(tmp_path / f"{name}.npz")
    assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match="is not a file"):
    read_centroids(tmp_path / "none.npz")
