"""Makes all processes of a run take the same decision."""

import jax
from jax.experimental import multihost_utils


def agreed(local: bool) -> bool:
  """Returns the argument of process 0 in every process; all processes must call this function."""
  if jax.process_count() == 1:
    return local
  return bool(multihost_utils.broadcast_one_to_all(local))
