"""The types of arrays and pytrees in modules that compute with JAX."""

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
  from typing import Any

  from jax import Array

  PyTree = Any  # pyright cannot read the type `PyTree` of jaxtyping
else:
  from jaxtyping import PyTree

  # Functions that use JAX also accept NumPy arrays, and return them if they compute nothing.
  Array = jax.Array | np.ndarray

__all__ = ["Array", "PyTree"]
