"""What the processes of a run agree on."""

import jax
from jax.experimental import multihost_utils


def agreed(local: bool) -> bool:
  """Returns the value of process 0 in every process."""
  if jax.process_count() == 1:
    return local
  return bool(multihost_utils.broadcast_one_to_all(local))
