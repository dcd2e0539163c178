"""The layers of the transformer: attention and feed-forward, for training and decoding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.core.layers import recomputed, scanned
from audiolm_jax.lm.attention import KeyValues, causal_attention, rotate
from audiolm_jax.lm.config import FeedForward, Positions, TransformerConfig
from audiolm_jax.lm.layers import Projection, RMSNorm

# Maps queries and the new keys and values to the output and the updated cache.
Attend = Callable[[Array, KeyValues], tuple[Array, PyTree]]


class AttentionContext(NamedTuple):
  """Inputs that all layers share in training and prefill.

  Attributes:
    biases: sum of bias and mask for each block of queries, see `bias_blocks`.
    positions: positions counted from the first token after padding on the left, for rotary
      embeddings.
    key_mask: False on padding; None without padding.
  """

  biases: tuple[Float[Array, "shards heads _ _"], ...]
  positions: Int[Array, "#batch length"]
  key_mask: Bool[Array, "batch length"] | None


def layer_stack(block: type[nn.Module], config: TransformerConfig, *arguments: Any) -> Any:
  """Returns the layers of a model for `run_layers`; must be called in the `setup` of the model.

  The result must be assigned to the attribute `layers`. If `config.scan_layers` is True, the
  parameters of all layers are stacked under the name "layers"; otherwise the parameters have the
  names "layers_0", "layers_1" and so on.

  Args:
    block: class of a layer, which maps an input and a context to an output and None.
    config: configuration with the number of layers, `scan_layers` and `remat`.
    *arguments: arguments of `block`.
  """
  block = recomputed(block, config.remat, config.scan_layers)
  if not config.scan_layers:
    return [block(*arguments) for _ in range(config.num_layers)]
  return scanned(block, config.num_layers, nn.broadcast)(*arguments)


def run_layers(
  layers: Any, x: Float[Array, "batch length embed"], context: PyTree
) -> Float[Array, "batch length embed"]:
  """Runs the layers one after another, and returns the output of the last layer.

  Args:
    layers: result of `layer_stack`.
    x: input of the first layer.
    context: inputs that all layers share, such as an `AttentionContext`.
  """
  for layer in [layers] if isinstance(layers, nn.Module) else layers:
    x, _ = layer(x, context)
  return x


class Attention(nn.Module):
  """The projections of grouped-query attention, without the attention itself."""

  config: TransformerConfig

  def setup(self):
    c = self.config
    dtype = jnp.dtype(c.dtype)
    query = (c.dim, c.num_heads, c.head_size)
    key = (c.dim, c.kv_heads, c.head_size)
    axes = ("embed", "heads", "kv")
    self.query = Projection(query, axes, dtype)
    self.key = Projection(key, axes, dtype)
    self.value = Projection(key, axes, dtype)
    self.output = Projection(
      (c.num_heads, c.head_size, c.dim),
      ("heads", "kv", "embed"),
      dtype,
      num_inputs=2,
      scale=_residual_scale(c),
    )

  def _by_group(
    self, query: Float[Array, "batch length heads head_dim"]
  ) -> Float[Array, "batch length kv_heads group head_dim"]:
    """Splits the heads of queries into groups; the heads of a group share keys and values."""
    c = self.config
    query = nn.with_logical_constraint(query, ("batch", "length", "heads", "kv"))
    return query.reshape(*query.shape[:2], c.kv_heads, c.num_heads // c.kv_heads, c.head_size)

  def _by_head(
    self,
    key: Float[Array, "batch length kv_heads head_dim"],
    value: Float[Array, "batch length kv_heads head_dim"],
  ) -> KeyValues:
    """Returns keys and values with the axis of heads before the axis of positions."""
    # If there are fewer key/value heads than query heads, their number may not be divisible by the
    # number of devices, so they are not sharded.
    kv_heads = "heads" if self.config.kv_heads == self.config.num_heads else None
    names = ("batch", "length", kv_heads, "kv")
    key, value = (nn.with_logical_constraint(x, names) for x in (key, value))
    return KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2))

  def _combine(
    self, output: Float[Array, "batch length kv_heads group head_dim"]
  ) -> Float[Array, "batch length embed"]:
    """Returns the output projection of the attention outputs of all heads."""
    c = self.config
    output = output.reshape(*output.shape[:2], c.num_heads, c.head_size)
    return self.output(nn.with_logical_constraint(output, ("batch", "length", "heads", "kv")))


class SelfAttention(Attention):
  """Grouped-query self-attention."""

  def prefill(
    self, x: Float[Array, "batch length embed"], context: AttentionContext
  ) -> tuple[Float[Array, "batch length embed"], KeyValues]:
    """Returns the attention output for a whole sequence, and its keys and values."""
    query, key_values = self._project(x, context.positions)
    output = causal_attention(query, key_values, context.biases, context.key_mask)
    return self._combine(output), key_values

  def decode_step(
    self,
    x: Float[Array, "batch 1 embed"],
    position: Int[Array, "batch 1"],
    attend: Attend,
  ) -> tuple[Float[Array, "batch 1 embed"], PyTree]:
    """Returns the attention output for one token per row, and the updated cache.

    Args:
      x: input of the layer.
      position: position of the token in each row.
      attend: maps (query, key_values) to the output and the updated cache.
    """
    query, key_values = self._project(x, position)
    output, cache = attend(query, key_values)
    return self._combine(output), cache

  def _project(self, x, positions):
    c = self.config
    query, key, value = self.query(x), self.key(x), self.value(x)
    if c.positions is Positions.ROTARY:
      query = rotate(query, positions, c.rotary_base)
      key = rotate(key, positions, c.rotary_base)
    return self._by_group(query), self._by_head(key, value)


class Mlp(nn.Module):
  """The feed-forward layer, plain or gated."""

  config: TransformerConfig
  deterministic: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
    c = self.config
    dtype = jnp.dtype(c.dtype)
    shape, axes = (c.dim, c.mlp_dim), ("embed", "mlp")
    hidden = _ACTIVATIONS[FeedForward(c.feed_forward)](
      Projection(shape, axes, dtype, name="input")(x)
    )
    if c.feed_forward in (FeedForward.GATED_GELU, FeedForward.GATED_SILU):
      hidden = hidden * Projection(shape, axes, dtype, name="gate")(x)
    hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
    hidden = dropout_of(c, self.deterministic)(hidden)
    output = Projection(shape[::-1], axes[::-1], dtype, scale=_residual_scale(c), name="output")
    return output(hidden)


class Block(nn.Module):
  """One pre-norm layer: attention, then feed-forward, each added to its input."""

  config: TransformerConfig
  deterministic: bool = True

  def setup(self):
    c = self.config
    self.attention_norm = RMSNorm(jnp.dtype(c.dtype))
    self.attention = SelfAttention(c)
    self.mlp_norm = RMSNorm(jnp.dtype(c.dtype))
    self.mlp = Mlp(c, self.deterministic)
    self.dropout = dropout_of(c, self.deterministic)

  def __call__(
    self, x: Float[Array, "batch length embed"], context: AttentionContext
  ) -> tuple[Float[Array, "batch length embed"], None]:
    """Returns the output in training, and None as the second value that `nn.scan` requires."""
    return self.prefill(x, context)[0], None

  def prefill(
    self, x: Float[Array, "batch length embed"], context: AttentionContext
  ) -> tuple[Float[Array, "batch length embed"], KeyValues]:
    """Returns the output for a whole sequence, and the keys and values of the layer."""
    added, key_values = self.attention.prefill(self.attention_norm(x), context)
    return self._feed_forward(x + self.dropout(added)), key_values

  def decode_step(self, x: Float[Array, "batch 1 embed"], position, attend):
    """Returns the output for one token per row, and the updated cache.

    Args:
      x: input of the layer.
      position: see `SelfAttention.decode_step`.
      attend: see `SelfAttention.decode_step`.
    """
    added, cache = self.attention.decode_step(self.attention_norm(x), position, attend)
    return self._feed_forward(x + added), cache

  def _feed_forward(self, x):
    x = x + self.dropout(self.mlp(self.mlp_norm(x)))
    return nn.with_logical_constraint(x, ("batch", "length", "embed"))


_ACTIVATIONS = {
  FeedForward.RELU: jax.nn.relu,
  FeedForward.GELU: jax.nn.gelu,
  FeedForward.GATED_GELU: jax.nn.gelu,
  FeedForward.GATED_SILU: jax.nn.silu,
}


def _residual_scale(config: TransformerConfig) -> float:
  """Returns the initial scale of output kernels that keeps the residual stream at unit scale.

  Each layer adds two outputs to the residual stream: attention and feed-forward.
  """
  return (2 * config.num_layers) ** -0.5


def dropout_of(config: TransformerConfig, deterministic: bool) -> nn.Dropout:
  """Returns dropout with one mask for all positions of an example."""
  return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic)
