"""Cluster centres that others have published."""

import os
import zipfile

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError, UserError


def read_centroids(path: str | os.PathLike[str]) -> Float[np.ndarray, "clusters dim"]:
  """The array `centroids` of a .npz file.

  Raises:
    UserError: it is missing, a pickle, or holds no such array.
  """
  try:
    with open(path, "rb") as file:
      if not zipfile.is_zipfile(file):
        raise UserError(
          f"{path} is no .npz file; a pickle of scikit-learn may run any code that is in it, so it "
          "is not read here: turn it into centroids.npz once, as docs/pretrained.md shows"
        )
      file.seek(0)
      with np.load(file, allow_pickle=False) as arrays:
        centroids = arrays["centroids"]
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
  except (KeyError, ValueError, zipfile.BadZipFile) as error:
    reason = " ".join(str(error).split())
    raise DataError(f"{path} has no array 'centroids' ({reason}); make it again") from error
  if centroids.ndim != 2 or not centroids.size or centroids.dtype.kind != "f":
    raise DataError(
      f"the centroids in {path} are {centroids.dtype} of shape {centroids.shape}; they must be "
      "floats of shape (clusters, dimensions)"
    )
  if not np.isfinite(centroids).all():
    raise DataError(f"some centroids in {path} are NaN or infinite; make it again")
  return centroids.astype(np.float32)
