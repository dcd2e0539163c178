"""Random keys of a fixed implementation, so that results depend on the seed only."""

from typing import cast

import jax
import numpy as np
from jaxtyping import Integer, Key

from audiolm_jax.core.arrays import Array

_IMPLEMENTATION = "threefry2x32"


def new_key(seed: int | Integer[Array | np.ndarray | np.uint32, ""]) -> Key[Array, ""]:
  """Returns the random key of a seed; JAX_DEFAULT_PRNG_IMPL does not affect the key."""
  return jax.random.key(cast(int, seed), impl=_IMPLEMENTATION)
