"""Reads published cluster centres."""

import os
import zipfile

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError, UserError


def read_centroids(path: str | os.PathLike[str]) -> Float[np.ndarray, "clusters dim"]:
  """Returns the array `centroids` of a .npz file.

  Raises:
    UserError: the file is missing or is a pickle.
    DataError: the file contains no such array, or its values are invalid.
  """
  try:
    with open(path, "rb") as file:
      if not zipfile.is_zipfile(file):
        raise UserError(
          f"{path} is not a .npz file; a pickle of scikit-learn may run any code that it contains, "
          "so it is not read: convert it to centroids.npz once, as docs/pretrained.md shows"
        )
      file.seek(0)
      with np.load(file, allow_pickle=False) as arrays:
        centroids = arrays["centroids"]
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
  except (KeyError, ValueError, zipfile.BadZipFile) as error:
    reason = " ".join(str(error).split())
    raise DataError(f"{path} has no array 'centroids' ({reason}); recreate it") from error
  if centroids.ndim != 2 or not centroids.size or centroids.dtype.kind != "f":
    raise DataError(
      f"the centroids in {path} are {centroids.dtype} of shape {centroids.shape}; they must be "
      "floats of shape (clusters, dimensions)"
    )
  if not np.isfinite(centroids).all():
    raise DataError(f"some centroids in {path} are NaN or infinite; recreate it")
  return centroids.astype(np.float32)
