"""The types of arrays and of trees of them in modules that compute with JAX."""

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
  from typing import Any

  from jax import Array

  PyTree = Any  # pyright cannot read that of jaxtyping
else:
  from jaxtyping import PyTree

  # JAX functions also accept NumPy arrays, and return them where nothing is computed.
  Array = jax.Array | np.ndarray

__all__ = ["Array", "PyTree"]
