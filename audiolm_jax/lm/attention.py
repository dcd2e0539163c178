"""Causal self-attention with positions, for training and for decoding.

Training and prefill attend over a whole sequence, one block of queries at a time, so that no
products with keys after the block are computed. Decoding attends from one query to a key/value
cache. Training, prefill and decoding use the same attention bias, which depends on the distance
between query and key.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from audiolm_jax.core import modules, products
from audiolm_jax.core.arrays import Array

# The logits of masked keys, or their bias. The value is finite, so that the output of a query
# without unmasked keys (padding on the left of a prompt) is finite too; this output is not used.
MASKED = -1e9

# Queries per block in training: small enough to skip most products with later keys and to fit into
# the cache of the processor, large enough for efficient matrix products.
QUERY_BLOCK = 256
# Queries per block in prefill, which runs once: fewer blocks compile faster.
PREFILL_BLOCK = 512


class KeyValues(NamedTuple):
  """Keys and values; heads precede length so that decoding steps read memory contiguously."""

  keys: Float[Array, "batch kv_heads length head_dim"]
  values: Float[Array, "batch kv_heads length head_dim"]

  @property
  def cached(self) -> "Cache":
    """The same keys and values in the layout of a cache."""
    return Cache(self.keys.swapaxes(2, 3), self.values)


class Cache(NamedTuple):
  """Keys and values of earlier positions, for decoding.

  Keys are transposed, so the product of a query and keys is a sum of contiguous rows, like the
  product of weights and values. XLA:CPU computes such a sum twice as fast as one dot product per
  key.
  """

  keys: Float[Array, "batch kv_heads head_dim length"]
  values: Float[Array, "batch kv_heads length head_dim"]

  @property
  def length(self) -> int:
    """Number of positions."""
    return self.values.shape[2]

  def map(self, function: Callable[[Array, int], Array]) -> "Cache":
    """Applies `function(array, axis)` to keys and to values; `axis` is the axis of positions."""
    return Cache(function(self.keys, 3), function(self.values, 2))

  def empty(self, length: int) -> "Cache":
    """Returns a cache of zeros with `length` positions, at most `self.length`."""
    return self.map(lambda x, axis: jnp.zeros_like(lax.slice_in_dim(x, 0, length, axis=axis)))

  def write(self, new: "Cache", start: Int[Array, ""] | np.int32) -> "Cache":
    """Returns the cache with `new` written to the positions from `start` on."""
    update = lax.dynamic_update_slice_in_dim
    return Cache(
      update(self.keys, new.keys, start, axis=3), update(self.values, new.values, start, axis=2)
    )


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "length"]:
  """Returns the bucket of each distance 0 .. length - 1 between a query and an earlier key.

  Each bucket in the first half contains one distance. Each bucket in the second half contains a
  range of distances; the ranges grow geometrically up to `max_distance`. The last bucket also
  contains all larger distances.

  Source: T5 (arXiv 1910.10683), section 2.1, the unidirectional case.
  """
  distance = np.arange(length)
  exact = num_buckets // 2
  scaled = np.log(np.maximum(distance, 1) / exact) / math.log(max_distance / exact)
  logarithmic = exact + (scaled * (num_buckets - exact)).astype(np.int64)
  buckets = np.where(distance < exact, distance, np.minimum(logarithmic, num_buckets - 1))
  return buckets.astype(np.int32)


class RelativeBias(nn.Module):
  """The learned relative attention bias of T5, with one table for all layers."""

  num_heads: int
  num_buckets: int
  max_distance: int

  @nn.compact
  def __call__(self, length: int, batch: int = 1) -> Float[Array, "shards heads length"]:
    """Returns the bias for each distance 0 .. length - 1; `copy_per_shard` explains shards."""
    shape, axes = (self.num_buckets, self.num_heads), ("relpos_buckets", "heads")
    table = modules.param(self, "table", nn.initializers.normal(0.02), axes, shape, jnp.float32)
    buckets = relative_buckets(length, self.num_buckets, self.max_distance)
    return copy_per_shard(table.T, batch)[..., buckets]


def copy_per_shard(
  table: Float[Array, "heads buckets"], batch: int
) -> Float[Array, "shards heads buckets"]:
  """Returns one copy of the table per shard of the batch, or one copy without a mesh.

  If the number of shards does not divide `batch`, the number of copies is their greatest common
  divisor. Each device sums the gradient of its copy, so devices exchange gradients as large as
  the table. With a single table, they would exchange gradients of each block of biases [heads,
  queries, keys].
  """
  spec = nn.logical_to_mesh_axes(("batch",))
  split = spec[0] if spec else None
  axes = split if isinstance(split, tuple) else (split,)
  sizes = jax.sharding.get_abstract_mesh().shape
  shards = math.gcd(batch, math.prod(sizes.get(axis, 1) for axis in axes))
  copies = jnp.broadcast_to(table, (shards, *table.shape))
  return nn.with_logical_constraint(copies, ("batch", "heads", None))


def bias_block(
  bias: Float[Array, "shards heads length"], start: int, count: int
) -> Float[Array, "shards heads count keys"]:
  """Returns the sum of bias and causal mask for a block of queries and the keys up to its end.

  The queries are `start .. start + count - 1`, the keys are `0 .. start + count - 1`. For start 1,
  count 2 and the bias b by distance, the result of each head is:

      b1 b0 --      (-- is MASKED)
      b2 b1 b0

  The matrix is constant along its diagonals. It is made of copies of one vector, which are joined
  and cut into rows one element shorter than the vector. The gradient is then a sum over rows
  instead of a scatter.
  """
  each, end = bias.shape[:2], start + count
  future = jnp.full((*each, count), MASKED, bias.dtype)
  later = bias[..., end - 1 : start : -1]
  period = jnp.concatenate([bias[..., start::-1], future, later], axis=-1)
  width = period.shape[-1]  # end + count
  rows = jnp.broadcast_to(period[..., None, :], (*each, count, width)).reshape(*each, -1)
  return rows[..., : count * (width - 1)].reshape(*each, count, width - 1)[..., :end]


def bias_blocks(
  bias: Float[Array, "shards heads length"], block: int = QUERY_BLOCK
) -> tuple[Float[Array, "shards heads _ _"], ...]:
  """Returns the results of `bias_block` for all blocks of queries; all layers use these biases."""
  length = bias.shape[-1]
  return tuple(bias_block(bias, s, min(block, length - s)) for s in range(0, length, block))


def causal_attention(
  query: Float[Array, "batch length kv_heads group head_dim"],
  key_values: KeyValues,
  biases: Sequence[Float[Array, "shards heads _ _"]],
  key_mask: Bool[Array, "batch length"] | None,
) -> Float[Array, "batch length kv_heads group head_dim"]:
  """Returns the attention output for every position, one block of queries at a time.

  Args:
    query: queries; the heads of a group share their keys and values.
    key_values: keys and values.
    biases: for each block of queries, the sum of bias and mask [shards, heads, queries, keys], such
      as the result of `bias_blocks`. The keys of a block begin at position 0. A single head of
      biases applies to all heads. Each shard of biases applies to an equal part of the batch.
    key_mask: False on keys to mask (padding on the left); None without padding.
  """
  batch, groups = query.shape[0], query.shape[3]
  outputs, start = [], 0
  for bias in biases:
    shards, (count, end) = bias.shape[0], bias.shape[2:]
    of_each = jnp.repeat(_grouped(bias, groups), batch // shards, axis=0)
    logits = scores(query[:, start:end], key_values.keys[:, :, :end])
    logits = logits * query.shape[-1] ** -0.5 + of_each
    if key_mask is not None:
      logits = jnp.where(key_mask[:, None, None, None, :end], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    outputs.append(weighted_sums(weights, key_values.values[:, :, :end]))
    start += count
  return jnp.concatenate(outputs, axis=1)


def scores(
  query: Float[Array, "batch count kv_heads group head_dim"],
  keys: Float[Array, "batch kv_heads keys head_dim"],
) -> Float[Array, "batch kv_heads group count keys"]:
  """Returns the dot products of queries and keys in float32."""
  if not products.rounds(query, keys):
    return jnp.einsum("bqhgd,bhkd->bhgqk", query, keys, preferred_element_type=jnp.float32)
  batch, count, heads, groups, dim = query.shape
  rows = query.transpose(0, 2, 3, 1, 4).reshape(batch, heads, groups * count, dim)
  found = products.batched_matmul(rows, keys.swapaxes(2, 3))
  return found.reshape(batch, heads, groups, count, -1)


def weighted_sums(
  weights: Float[Array, "batch kv_heads group count keys"],
  values: Float[Array, "batch kv_heads keys head_dim"],
) -> Float[Array, "batch count kv_heads group head_dim"]:
  """Returns the sums of the values, weighted by `weights`."""
  if not products.rounds(weights, values):
    return jnp.einsum("bhgqk,bhkd->bqhgd", weights, values)
  batch, heads, groups, count, keys = weights.shape
  rows = weights.reshape(batch, heads, groups * count, keys)
  sums = products.batched_matmul(rows, values).reshape(batch, heads, groups, count, -1)
  return sums.transpose(0, 3, 1, 2, 4)


def cached_attention(
  query: Float[Array, "batch 1 kv_heads group head_dim"],
  parts: Sequence[tuple[Cache, Float[Array, "_ _ _"]]],
) -> Float[Array, "batch 1 kv_heads group head_dim"]:
  """Returns the attention output for one query per row, from the keys and values of all `parts`.

  Args:
    query: queries; the heads of a group share their keys and values.
    parts: the parts of the cache, and for each part the sum of bias and mask [batch, heads, keys],
      in which `batch` and `heads` may be 1.
  """
  groups = query.shape[3]
  scale = query.shape[-1] ** -0.5
  logits = [
    jnp.einsum("bhgd,bhdk->bhgk", query[:, 0], kv.keys, preferred_element_type=jnp.float32) * scale
    + _grouped(bias, groups)
    for kv, bias in parts
  ]
  weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1).astype(query.dtype)
  splits = np.cumsum([kv.length for kv, _ in parts])[:-1].tolist()
  outputs = [
    jnp.einsum("bhgk,bhkd->bhgd", w, kv.values)
    for w, (kv, _) in zip(jnp.split(weights, splits, axis=-1), parts, strict=True)
  ]
  return sum(outputs[1:], outputs[0])[:, None]


def attend_and_write(
  query: Float[Array, "batch 1 kv_heads group head_dim"],
  key_values: KeyValues,
  old: tuple[Cache, Float[Array, "_ _ _"]],
  recent: tuple[Cache, Float[Array, "_ _ _"]],
  index: Int[Array, ""],
) -> tuple[Float[Array, "batch 1 kv_heads group head_dim"], Cache]:
  """Writes new keys and values to the cache, and attends from one query per row to the cache.

  Args:
    query: queries; the heads of a group share their keys and values.
    key_values: keys and values at the position of the query.
    old: the part of the cache that is only read, and the bias of its keys.
    recent: the part of the cache that is written, and the bias of its keys.
    index: position in the recent part to which `key_values` are written.

  Returns:
    The attention output, and the updated recent part.
  """
  # Prevents XLA:CPU from fusing the write with operations that read the buffer; a fusion would copy
  # the buffer.
  written = lax.optimization_barrier(recent[0].write(key_values.cached, index))
  return cached_attention(query, [old, (written, recent[1])]), written


def rotate(
  x: Float[Array, "batch length *heads head_dim"],
  positions: Int[Array, "#batch length"] | Float[Array, "#batch length"],
  base: float,
) -> Float[Array, "batch length *heads head_dim"]:
  """Applies rotary position embedding to queries or keys.

  The channels i and i + head_dim / 2 are rotated by the angle position * base**(-2 i / head_dim).

  Source: RoFormer (arXiv 2104.09864), section 3.2.
  """
  half = x.shape[-1] // 2
  frequencies = jnp.asarray(base ** (-np.arange(half) / half), jnp.float32)
  angles = positions[..., None].astype(jnp.float32) * frequencies
  angles = angles.reshape(*angles.shape[:2], *(1,) * (x.ndim - 3), half)
  # Without the barrier, XLA computes the angles again for each row and head.
  sin, cos = lax.optimization_barrier((jnp.sin(angles), jnp.cos(angles)))
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
  return turned.astype(x.dtype)


def _grouped(
  bias: Float[Array, "_ heads ..."], groups: int
) -> Float[Array, "_ kv_heads group ..."]:
  """Splits the axis of heads into [kv_heads, group], or into [1, 1] if there is a single head."""
  heads = bias.shape[1]
  split = (1, 1) if heads == 1 else (heads // groups, groups)
  return bias.reshape(bias.shape[0], *split, *bias.shape[2:])
