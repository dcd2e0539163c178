"""The array type of signatures in modules that compute with JAX."""

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
  from jax import Array
else:
  # JAX functions also accept NumPy arrays, and return them where nothing is computed.
  Array = jax.Array | np.ndarray

__all__ = ["Array"]
