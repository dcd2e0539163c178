"""Reads published cluster centres."""

import os
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.io.npz import Arrays

_LARGEST = 1e9


def read_centroids(path: str | os.PathLike[str]) -> Float[np.ndarray, "clusters dim"]:
  """Returns the array `centroids` of a .npz file.

  Raises:
    UserError: the file is missing, cannot be read, or is not a .npz file (pickles are not read).
    DataError: the file is damaged or has no array `centroids`, or the shape, dtype or values of the
      array are invalid.
  """
  if not Path(path).is_file():
    raise UserError(f"{path} is not a file; give the centroids.npz of the model")
  try:
    with open(path, "rb") as file:
      if not zipfile.is_zipfile(file):
        raise UserError(
          f"{path} is not a .npz file; a pickle of scikit-learn may run any code that it contains, "
          "so it is not read: convert it to centroids.npz once, as docs/pretrained.md shows"
        )
      file.seek(0)
      centroids = Arrays(file)["centroids"]
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
  except KeyError as error:
    raise DataError(f"{path} has no array 'centroids'; recreate it") from error
  except ValueError as error:
    if isinstance(error, UserError):
      raise
    raise DataError(f"{path} has no array 'centroids' that can be read ({error})") from error
  if centroids.ndim != 2 or not centroids.size or centroids.dtype.kind != "f":
    raise DataError(
      f"the centroids in {path} are {centroids.dtype} of shape {centroids.shape}; they must be "
      "floats of shape (clusters, dimensions)"
    )
  if not (np.abs(centroids) <= _LARGEST).all():
    raise DataError(
      f"some centroids in {path} are NaN or beyond {_LARGEST:g}, whose squares exceed float32; "
      "recreate it"
    )
  return centroids.astype(np.float32)
