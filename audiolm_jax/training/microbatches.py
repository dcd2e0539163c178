"""Gradients of a batch that is too large for the device, computed in parts."""

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

LossFunction = Callable[[PyTree, Batch, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]


def loss_and_gradients(
  loss: LossFunction, params: Params, batch: Batch, rng: Key[Array, ""], microbatches: int
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], PyTree]:
  """Returns the loss of a batch, its metrics and gradients, as means over `microbatches` parts.

  The metric "weight" is the weight of a part, so a mean over tokens remains the mean over all
  tokens of the batch. Only the activations of one part are in memory at a time, and each device
  processes rows that it already has.

  Args:
    loss: returns the mean loss over the rows of a batch, and metrics that include "weight".
    params: the parameters.
    batch: arrays with a leading batch axis.
    rng: split among the parts; with one part it is passed on unchanged.
    microbatches: number of parts.

  Returns:
    Loss, metrics (weights summed, all others averaged) and gradients with the structure of
    `params`.

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
  """Splits [batch, ...] into [count, batch / count, ...]; part i has every row i + n * count.

  The rows of a device are contiguous in the batch, so every part has an equal share of them.
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
