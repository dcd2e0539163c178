"""The decoder-only transformer of autoregressive stages.

Training (`Transformer.__call__`), prefill (`prefill`) and decoding steps (`decode_step`) share one
set of modules, so that their results are consistent.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PyTree

from audiolm_jax.core import modules, products
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.lm.attention import PREFILL_BLOCK, KeyValues, RelativeBias, bias_blocks
from audiolm_jax.lm.blocks import (
  Attend,
  AttentionContext,
  Block,
  dropout_of,
  layer_stack,
  run_layers,
)
from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.layers import RMSNorm

__all__ = ["Transformer", "TransformerConfig", "stack_layers", "unstack_layers"]


class Transformer(nn.Module):
  """Decoder-only transformer over the vocabulary of one stage.

  Attributes:
    config: configuration of the model.
    vocab_size: number of ids.
    deterministic: False enables dropout (requires the random stream "dropout").
  """

  config: TransformerConfig
  vocab_size: int
  deterministic: bool = True

  def setup(self):
    c = self.config
    normal, table = nn.initializers.normal(0.02), ((self.vocab_size, c.dim), jnp.float32)
    self.embedding = modules.param(self, "embedding", normal, ("vocab", "embed"), *table)
    if c.num_frame_embeddings:
      frames = ((c.num_frame_embeddings, c.dim), jnp.float32)
      axes = ("length", "embed")
      self.frame_embedding = modules.param(self, "frame_embedding", normal, axes, *frames)
    if c.positions is Positions.T5_RELATIVE:
      self.relative_bias = RelativeBias(c.num_heads, c.num_buckets, c.max_distance)
    # Names of attributes are names of parameters; for layers "layers" if stacked, else "layers_0"
    # and so on.
    self.layers = layer_stack(Block, c, c, self.deterministic)
    self.final_norm = RMSNorm(jnp.dtype(c.dtype))
    self.head = modules.param(self, "head", normal, ("vocab", "embed"), *table)
    self.dropout = dropout_of(c, self.deterministic)

  def __call__(
    self,
    tokens: Int[Array, "batch length"],
    frame_ids: Int[Array, "batch length"] | None = None,
  ) -> Float[Array, "batch length vocab"]:
    """Returns the logits of the token after each input token.

    Args:
      tokens: ids of the input, the begin token first.
      frame_ids: frame ids of the *targets*; required if the config has frame embeddings.

    Returns:
      float32 logits over all ids.
    """
    return self.logits(self.hidden(tokens, frame_ids))

  def hidden(
    self,
    tokens: Int[Array, "batch length"],
    frame_ids: Int[Array, "batch length"] | None = None,
  ) -> Float[Array, "batch length embed"]:
    """Returns the normalised output of the last layer, which is the input of the output layer."""
    x = self._embed(tokens, frame_ids)
    positions = jnp.arange(tokens.shape[1])[None]
    bias = self.distance_bias(tokens.shape[1], len(tokens))
    context = AttentionContext(bias_blocks(bias), positions, None)
    return self.final_norm(run_layers(self.layers, x, context))

  def prefill(
    self,
    tokens: Int[Array, "batch length"],
    frame_ids: Int[Array, "batch length"] | None,
    padding: Int[Array, "batch"],
  ) -> tuple[Float[Array, "batch length embed"], tuple[KeyValues, ...]]:
    """Runs the layers on whole prompts; requires unstacked layers.

    Args:
      tokens: ids of the input, padded on the left.
      frame_ids: frame ids of the targets; None if the config has no frame embeddings.
      padding: number of padding tokens on the left of each row, which are ignored.

    Returns:
      The output of `hidden`, and the keys and values of each layer. On padding, both are arbitrary.
    """
    x = self._embed(tokens, frame_ids)
    positions = jnp.arange(tokens.shape[1])[None] - padding[:, None]
    bias = self.distance_bias(tokens.shape[1], len(tokens))
    context = AttentionContext(bias_blocks(bias, PREFILL_BLOCK), positions, positions >= 0)
    cache = []
    for layer in self.layers:
      x, key_values = layer.prefill(x, context)
      cache.append(key_values)
    return self.final_norm(x), tuple(cache)

  def decode_step(
    self,
    token: Int[Array, "batch"],
    frame_id: Int[Array, "batch"] | None,
    position: Int[Array, "batch"],
    attends: Sequence[Attend],
  ) -> tuple[Float[Array, "batch embed"], tuple[PyTree, ...]]:
    """Runs the layers on one token per row; requires unstacked layers.

    Args:
      token: id of the token of each row.
      frame_id: frame id of the target of each row; None if the config has no frame embeddings.
      position: position of the token of each row, counted from the first token after the padding.
      attends: functions `(query, key_values) -> (output, cache)`, one per layer.

    Returns:
      The normalised output of the last layer, and the updated cache of each layer.
    """
    x = self._embed(token[:, None], None if frame_id is None else frame_id[:, None])
    caches = []
    for layer, attend in zip(self.layers, attends, strict=True):
      x, cache = layer.decode_step(x, position[:, None], attend)
      caches.append(cache)
    return self.final_norm(x)[:, 0], tuple(caches)

  def distance_bias(self, length: int, batch: int = 1) -> Float[Array, "shards heads length"]:
    """Returns the attention bias for each distance; for rotary positions, zeros with one head."""
    if self.config.positions is Positions.T5_RELATIVE:
      return self.relative_bias(length, batch)
    return jnp.zeros((1, 1, length), jnp.float32)

  def logits(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
    """Returns the float32 logits over all ids."""
    logits = _scores(hidden, self.head)
    names = ("batch", "length", "vocab") if logits.ndim == 3 else ("batch", "vocab")
    return nn.with_logical_constraint(logits, names)

  def codebook_logits(
    self,
    hidden: Float[Array, "batch frames quantizers embed"],
    start: int,
    size: int,
  ) -> Float[Array, "batch frames quantizers size"]:
    """Returns float32 logits of quantizer q over the `size` ids from `start + q * size` on.

    At a target position, only the ids of one codebook are legal, so the other rows of the output
    layer are not evaluated. With one quantizer, the ids can be any range.
    """
    quantizers = hidden.shape[2]
    rows = self.head[start : start + quantizers * size].reshape(quantizers, size, -1)
    rows = rows.astype(hidden.dtype)
    if products.rounds(hidden, rows):
      each = [products.matmul(hidden[:, :, q], rows[q].T) for q in range(quantizers)]
      logits = jnp.stack(each, axis=2)
    else:
      logits = jnp.einsum("bfqd,qvd->bfqv", hidden, rows, preferred_element_type=jnp.float32)
    return nn.with_logical_constraint(logits, ("batch", "length", None, "vocab"))

  def range_logits(
    self, hidden: Float[Array, "batch embed"], start: int | Int[Array, ""], size: int
  ) -> Float[Array, "batch size"]:
    """Returns float32 logits of the ids `start .. start + size - 1`; `start` may be traced."""
    return _scores(hidden, jax.lax.dynamic_slice_in_dim(self.head, start, size))

  def _embed(self, tokens, frame_ids):
    c = self.config
    x = self._rows(self.embedding, "vocab")[tokens]
    if c.num_frame_embeddings:
      if frame_ids is None:
        raise ConfigError("this transformer has frame embeddings and needs frame_ids")
      x = x + self._rows(self.frame_embedding, "length")[frame_ids]
    x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
    return self.dropout(x)

  def _rows(self, table, axis):
    """Returns a table in which no row is split over devices; devices may have different rows.

    Collecting the parts of each row before a lookup costs less than collecting them after it.
    """
    return nn.with_logical_constraint(table.astype(self.config.dtype), (axis, None))


def unstack_layers(params: Params) -> Params:
  """Converts the stacked parameters "layers" to parameters of each layer, "layers_0" and so on.

  Without stacked layers, returns a copy of `params`.
  """
  if "layers" not in params:
    return dict(params)
  stacked = params["layers"]
  count = jax.tree.leaves(stacked)[0].shape[0]
  rest = {name: value for name, value in params.items() if name != "layers"}
  layers = {f"layers_{i}": jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(count)}
  return rest | layers


def stack_layers(params: Params) -> Params:
  """Converts parameters of each layer, "layers_0" and so on, to the stacked parameters "layers".

  Without unstacked layers, returns a copy of `params`.
  """
  names = sorted((n for n in params if n.startswith("layers_")), key=lambda n: int(n[7:]))
  if not names:
    return dict(params)
  rest = {name: value for name, value in params.items() if name not in names}
  return rest | {"layers": jax.tree.map(lambda *a: jnp.stack(a), *(params[n] for n in names))}


def _scores(hidden: Float[Array, "*batch embed"], head: Float[Array, "vocab embed"]):
  return jnp.einsum(
    "...d,vd->...v", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32
  )
