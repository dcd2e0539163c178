"""The causal transformers of Mimi, with sliding-window attention and a state for streams.

The state contains the keys and values of the last `window - 1` positions, before the rotary
embedding. Positions are counted from the start of the current chunk, because rotary embeddings
encode only distances. So positions, and their rounding errors, do not grow with the length of a
stream.

Source: Défossez and others, "Moshi: a speech-text foundation model for real-time dialogue", 2024
(arXiv 2410.00037), section 3.3; RoFormer (arXiv 2104.09864) for the positions.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.ranges import Depth, Epsilon, RotaryBase, Steps, Width
from audiolm_jax.lm.attention import rotate


@dataclasses.dataclass(frozen=True)
class MimiTransformerConfig:
  """Shape of one of the two transformers; the defaults are those of the published model.

  Attributes:
    dim: width of the blocks.
    num_layers: number of blocks.
    num_heads: number of attention heads.
    feed_forward_dim: width between the two dense layers of a block.
    window: number of positions that a position attends to, including itself.
    rotary_base: base of the angles of rotary positions.
    norm_epsilon: added to the variance in the layer norms.
  """

  dim: Width = 512
  num_layers: Depth = 8
  num_heads: Width = 8
  feed_forward_dim: Width = 2048
  window: Steps = 250
  rotary_base: RotaryBase = 10_000.0
  norm_epsilon: Epsilon = 1e-5

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of `MimiTransformer`."""
    dim, wide = self.dim, self.feed_forward_dim
    names = ("query", "key", "value", "output")
    block = {
      "attention_norm": shapes.norm(dim),
      "attention": {name: shapes.dense(dim, dim, bias=False) for name in names},
      "attention_scale": (dim,),
      "feed_forward_norm": shapes.norm(dim),
      "feed_forward_in": shapes.dense(dim, wide, bias=False),
      "feed_forward_out": shapes.dense(wide, dim, bias=False),
      "feed_forward_scale": (dim,),
    }
    return {f"block_{i}": block for i in range(self.num_layers)}


class Past(NamedTuple):
  """The state of a transformer.

  Attributes:
    seen: number of past positions, at most `window - 1`.
    keys: the last `window - 1` keys of each layer, not rotated.
    values: the last `window - 1` values of each layer.
  """

  seen: Int[Array, ""]
  keys: tuple[Float[Array, "batch past heads head_dim"], ...]
  values: tuple[Float[Array, "batch past heads head_dim"], ...]


def transformer_state(config: MimiTransformerConfig, batch: int) -> Past:
  """Returns the state of `MimiTransformer` at the start of a clip."""
  c = config
  shape = (batch, c.window - 1, c.num_heads, c.dim // c.num_heads)
  past = tuple(jnp.zeros(shape) for _ in range(c.num_layers))
  return Past(jnp.zeros((), jnp.int32), past, past)


class MimiTransformer(nn.Module):
  """A stack of `MimiBlock`, without a final norm."""

  config: MimiTransformerConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time dim"], state: Past
  ) -> tuple[Float[Array, "batch time dim"], Past]:
    c = self.config
    keys, values = [], []
    for i in range(c.num_layers):
      block = MimiBlock(c, name=f"block_{i}")
      x, last_keys, last_values = block(x, state.seen, state.keys[i], state.values[i])
      keys.append(last_keys)
      values.append(last_values)
    seen = jnp.minimum(state.seen + x.shape[1], c.window - 1)
    return x, Past(seen, tuple(keys), tuple(values))


class MimiBlock(nn.Module):
  """Attention and dense layers; each has a norm before it, a scale after it and a residual sum."""

  config: MimiTransformerConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch time dim"],
    seen: Int[Array, ""],
    keys: Float[Array, "batch past heads head_dim"],
    values: Float[Array, "batch past heads head_dim"],
  ) -> tuple[
    Float[Array, "batch time dim"],
    Float[Array, "batch past heads head_dim"],
    Float[Array, "batch past heads head_dim"],
  ]:
    c = self.config
    attended, keys, values = MimiAttention(c, name="attention")(
      self._norm("attention_norm")(x), seen, keys, values
    )
    x = x + self._scale("attention_scale") * attended
    h = self._norm("feed_forward_norm")(x)
    h = nn.Dense(c.feed_forward_dim, use_bias=False, name="feed_forward_in")(h)
    h = jax.nn.gelu(h, approximate=False)
    h = nn.Dense(c.dim, use_bias=False, name="feed_forward_out")(h)
    return x + self._scale("feed_forward_scale") * h, keys, values

  def _norm(self, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(self.config.norm_epsilon, use_fast_variance=False, name=name)

  def _scale(self, name: str) -> Float[Array, "dim"]:
    # Small enough that an untrained block is nearly the identity (arXiv 2103.17239).
    return self.param(name, nn.initializers.constant(0.01), (self.config.dim,))


class MimiAttention(nn.Module):
  """Self-attention of every position to itself and to earlier positions within the window."""

  config: MimiTransformerConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch time dim"],
    seen: Int[Array, ""],
    keys: Float[Array, "batch past heads head_dim"],
    values: Float[Array, "batch past heads head_dim"],
  ) -> tuple[
    Float[Array, "batch time dim"],
    Float[Array, "batch past heads head_dim"],
    Float[Array, "batch past heads head_dim"],
  ]:
    c = self.config
    time, past = x.shape[1], c.window - 1
    by_head = (*x.shape[:2], c.num_heads, c.dim // c.num_heads)
    query, key, value = (
      nn.Dense(c.dim, use_bias=False, name=name)(x).reshape(by_head)
      for name in ("query", "key", "value")
    )
    keys = jnp.concatenate([keys, key], axis=1)
    values = jnp.concatenate([values, value], axis=1)
    position, key_position = jnp.arange(time), jnp.arange(-past, time)
    age = position[:, None] - key_position
    visible = (age >= 0) & (age < c.window) & (key_position >= -seen)
    attended = jax.nn.dot_product_attention(
      rotate(query, position[None], c.rotary_base),
      rotate(keys, key_position[None], c.rotary_base),
      values,
      mask=visible[None, None],
    )
    y = nn.Dense(c.dim, use_bias=False, name="output")(attended.reshape(x.shape))
    return y, keys[:, time:], values[:, time:]
