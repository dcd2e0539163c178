"""Balances the gradients of several losses at the generated waveform."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from audiolm_jax.core.arrays import Array


class WaveformLosses(NamedTuple):
  """Losses of a generated waveform and their gradients with respect to the waveform."""

  values: Float[Array, "losses"]
  gradients: Float[Array, "losses batch samples"]


def balance_gradients(
  gradients: Float[Array, "losses batch samples"],
  averages: Float[Array, "losses"],
  shares: Float[Array, "losses"],
) -> tuple[Float[Array, "batch samples"], Float[Array, "losses"]]:
  """Scales the gradient of each loss to a given norm and sums the scaled gradients.

  A gradient is divided by the moving average of its norm, so its scaled norm varies between steps.

  Args:
    gradients: gradient of each loss with respect to the generated waveform.
    averages: moving averages of the norms of the gradients; 0 before the first step.
    shares: norm to which each gradient is scaled.

  Returns:
    The sum of the scaled gradients, and the updated averages.

  Source: EnCodec, section 3.4.
  """
  norms = jnp.sqrt(jnp.sum(jnp.square(gradients), axis=(1, 2)))
  averages = jnp.where(averages > 0, 0.99 * averages + 0.01 * norms, norms)
  scale = jnp.where(averages > 0, shares / (averages + 1e-12), 0.0)
  return jnp.einsum("l,lbs->bs", scale, gradients), averages
