"""Random keys of one implementation, so that a seed gives the same results in every environment."""

from typing import cast

import jax
import numpy as np
from jaxtyping import Integer, Key

from audiolm_jax.core.arrays import Array

_IMPLEMENTATION = "threefry2x32"


def new_key(seed: int | Integer[Array | np.ndarray | np.uint32, ""]) -> Key[Array, ""]:
  """Returns the key of a seed; JAX_DEFAULT_PRNG_IMPL does not affect it."""
  return jax.random.key(cast(int, seed), impl=_IMPLEMENTATION)
