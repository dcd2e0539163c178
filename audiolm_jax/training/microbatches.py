"""One update from a batch that is too large for the device, taken in parts."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.training.metrics import WEIGHT, Metrics
from audiolm_jax.training.partitioning import BATCH_AXES

Batch = Mapping[str, Any]
LossFunction = Callable[[Any, Batch, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]


def loss_and_gradients(
  loss: LossFunction, params: Any, batch: Batch, rng: Key[Array, ""], microbatches: int
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], Any]:
  """The loss of a batch, its metrics and gradients, as means over `microbatches` parts of it.

  Each part counts by its metric "weight", so that a mean over tokens stays the mean over all tokens
  of the batch. The activations of one part are in memory at a time, and each device works on rows
  that it already has.

  Args:
    loss: gives a mean over the rows of the batch it is given, and metrics with their "weight".
    rng: split among the parts; one part gets it as it is.
  Returns:
    Loss, metrics (weights summed, all others averaged) and gradients like `params`.
  Raises:
    ConfigError: the batch cannot be split so.
  """
  gradient = jax.value_and_grad(loss, has_aux=True)
  if microbatches == 1:
    (value, metrics), gradients = gradient(params, batch, rng)
    return value, dict(metrics), gradients
  parts = {name: _split(value, microbatches) for name, value in batch.items()}
  keys = jax.random.split(rng, microbatches)

  def weighted(part: Batch, key: Key[Array, ""]) -> tuple[Array, Any]:
    (value, metrics), gradients = gradient(params, part, key)
    weight = metrics[WEIGHT]
    averaged = {name: metric for name, metric in metrics.items() if name != WEIGHT}
    return weight, jax.tree.map(lambda x: weight * x, (value, averaged, gradients))

  def add(total: Any, part: Any) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, weighted(*part)), None

  first = jax.tree.map(lambda x: x[0], (parts, keys))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(weighted, *first))
  (weight, sums), _ = jax.lax.scan(add, zeros, (parts, keys))
  value, metrics, gradients = jax.tree.map(lambda x: x / jnp.maximum(weight, 1e-6), sums)
  return value, metrics | {WEIGHT: weight}, gradients


def _split(value: Array, count: int) -> Array:
  """[batch, ...] to [count, batch / count, ...]; part i has every row i + n * count.

  So each device's rows, which lie together in the batch, give the same share of every part.
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
