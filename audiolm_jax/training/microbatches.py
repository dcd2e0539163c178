"""Computes the gradients of a batch in parts, if the whole batch needs too much memory."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Key, PyTree

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, Params
from audiolm_jax.training.metrics import WEIGHT, Metrics
from audiolm_jax.training.partitioning import BATCH_AXES

# Maps parameters, a batch and a key to the loss and the metrics.
LossFunction = Callable[[PyTree, Batch, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]


def loss_and_gradients(
  loss: LossFunction, params: Params, batch: Batch, rng: Key[Array, ""], microbatches: int
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], PyTree]:
  """Returns the loss of a batch, its metrics and gradients, as means over `microbatches` parts.

  The metric "weight" is the weight of a part in these means, so a mean over tokens remains the mean
  over all tokens of the batch. Only the activations of one part are in memory at a time. No rows
  move between devices.

  Args:
    loss: returns the mean loss over a batch, and metrics that include "weight".
    params: the parameters.
    batch: arrays with a leading batch axis.
    rng: the key for `loss`. It is split into one key per part, but not if there is only one part.
    microbatches: number of parts.

  Returns:
    The loss; the metrics, where "weight" is the sum and all other metrics are means over the
    parts; and the gradients with the structure of `params`.

  Raises:
    ConfigError: the batch cannot be split into equal parts on every device.
  """
  gradient = jax.value_and_grad(loss, has_aux=True)
  if microbatches == 1:
    (value, metrics), gradients = gradient(params, batch, rng)
    return value, dict(metrics), gradients
  parts = {name: _split(jnp.asarray(value), microbatches) for name, value in batch.items()}
  keys = jax.random.split(rng, microbatches)

  def weighted(part: Batch, key: Key[Array, ""]) -> tuple[Array, PyTree]:
    (value, metrics), gradients = gradient(params, part, key)
    weight = metrics[WEIGHT]
    averaged = {name: metric for name, metric in metrics.items() if name != WEIGHT}
    return weight, jax.tree.map(lambda x: weight * x, (value, averaged, gradients))

  def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
    return jax.tree.map(jnp.add, total, weighted(*part)), None

  first = jax.tree.map(lambda x: x[0], (parts, keys))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(weighted, *first))
  (weight, sums), _ = jax.lax.scan(add, zeros, (parts, keys))
  value, metrics, gradients = jax.tree.map(lambda x: x / jnp.maximum(weight, 1e-6), sums)
  return value, metrics | {WEIGHT: weight}, gradients


def _split(value: Array, count: int) -> Array:
  """Splits [batch, ...] into [count, batch / count, ...].

  Part i contains the rows i, i + count, i + 2 * count and so on. The rows of a device are
  contiguous in the batch, so every part contains an equal number of rows of each device.

  Raises:
    ConfigError: the rows of a device cannot be split into equal parts.
  """
  rows = value.shape[0]
  mesh = jax.sharding.get_abstract_mesh()
  devices = math.prod(mesh.shape.get(axis, 1) for axis in BATCH_AXES)
  if count < 1 or rows % (count * devices):
    over = f" of rows on each of {devices} devices" if devices > 1 else ""
    raise ConfigError(
      f"a batch of {rows} cannot be split into {count} equal microbatches{over}; "
      f"make BATCH_SIZE a multiple of {max(count, 1) * devices}, or change MICROBATCHES"
    )
  parts = jnp.moveaxis(value.reshape(rows // count, count, *value.shape[1:]), 1, 0)
  return nn.with_logical_constraint(parts, (None, "batch", *[None] * (value.ndim - 1)))
