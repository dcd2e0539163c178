"""The model of the conditioned stage: a bidirectional encoder and a causal decoder.

Training (`__call__`) and decoding (`source_caches`, `decode_step`) share one set of modules.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PyTree

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.lm.attention import (
  MASKED,
  Cache,
  KeyValues,
  bias_blocks,
  cached_attention,
  rotate,
  scores,
  weighted_sums,
)
from audiolm_jax.lm.blocks import (
  Attend,
  Attention,
  AttentionContext,
  Block,
  Mlp,
  SelfAttention,
  dropout_of,
  layer_stack,
  run_layers,
)
from audiolm_jax.lm.conditioned import ConditionedConfig
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.layers import RMSNorm
from audiolm_jax.lm.tokens import EOS, NUM_RESERVED, PAD


class DecoderContext(NamedTuple):
  """The inputs that all layers of the decoder share in training.

  Attributes:
    own: context of the self-attention to earlier targets.
    memory: output of the encoder.
    places: positions of the source tokens in units of targets, see `targets_per_source`.
    valid: False on padding of the source.
  """

  own: AttentionContext
  memory: Float[Array, "batch source embed"]
  places: Float[Array, "1 source"]
  valid: Bool[Array, "batch source"]


class ConditionedModel(nn.Module):
  """Predicts targets and an end token from a source.

  Attributes:
    config: configuration of the model.
    source_size: number of source ids.
    target_size: number of different targets, without the end token.
    vocab_size: number of decoder ids.
    deterministic: False enables dropout (requires the random stream "dropout").
  """

  config: ConditionedConfig
  source_size: int
  target_size: int
  vocab_size: int
  deterministic: bool = True

  def setup(self):
    c, axes = self.config.transformer, ("vocab", "embed")
    normal = nn.initializers.normal(0.02)
    table, source = ((rows, c.dim) for rows in (self.vocab_size, self.source_size))
    self.source_embedding = modules.param(
      self, "source_embedding", normal, axes, source, jnp.float32
    )
    self.embedding = modules.param(self, "embedding", normal, axes, table, jnp.float32)
    self.encoder = _Stack(self.config.encoder, Block, self.deterministic)
    self.decoder = _Stack(c, DecoderBlock, self.deterministic)
    self.head = modules.param(self, "head", normal, axes, table, jnp.float32)
    self.dropout = dropout_of(c, self.deterministic)

  def __call__(
    self, source: Int[Array, "batch source"], tokens: Int[Array, "batch length"]
  ) -> Float[Array, "batch length classes"]:
    """Returns float32 logits of the token after each input token; the last class is the end."""
    valid = source != PAD
    memory = self.encode(source)
    x = self._embed(self.embedding, tokens)
    length = tokens.shape[1]
    own = AttentionContext(
      bias_blocks(jnp.zeros((1, 1, length), jnp.float32)), jnp.arange(length)[None], None
    )
    return self.logits(self.decoder(x, DecoderContext(own, memory, self._places(memory), valid)))

  def encode(self, source: Int[Array, "batch source"]) -> Float[Array, "batch source embed"]:
    """Returns the output of the encoder; outputs on padding are arbitrary and have no effect."""
    length = source.shape[1]
    # One block without causal mask: all queries attend to all keys.
    everywhere = jnp.zeros((1, 1, length, length), jnp.float32)
    context = AttentionContext((everywhere,), jnp.arange(length)[None], source != PAD)
    return self.encoder(self._embed(self.source_embedding, source), context)

  def source_caches(self, source: Int[Array, "batch source"]) -> tuple[Cache, ...]:
    """Returns the keys and values of the source in each layer; requires unstacked layers."""
    memory = self.encode(source)
    places = self._places(memory)
    return tuple(layer.cross.key_values(memory, places).cached for layer in self.decoder.layers)

  def decode_step(
    self,
    token: Int[Array, "batch"],
    position: Int[Array, "batch"],
    attends: Sequence[Attend],
    sources: Sequence[Cache],
    source_bias: Float[Array, "batch 1 source"],
  ) -> tuple[Float[Array, "batch classes"], tuple[PyTree, ...]]:
    """Runs the decoder on one token per row; requires unstacked layers.

    Args:
      token: decoder id of the token of each row.
      position: position of the token of each row, counted from 0.
      attends: functions `(query, key_values) -> (output, cache)` for self-attention, one per layer.
      sources: result of `source_caches`.
      source_bias: 0 on the source and `MASKED` on its padding.

    Returns:
      The logits of the next token, and the updated cache of each layer.
    """
    x = self._embed(self.embedding, token[:, None])
    caches = []
    for layer, attend, source in zip(self.decoder.layers, attends, sources, strict=True):
      x, cache = layer.decode_step(x, position[:, None], attend, source, source_bias)
      caches.append(cache)
    return self.logits(self.decoder.final_norm(x))[:, 0], tuple(caches)

  def logits(self, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length _"]:
    """Returns float32 logits; the classes are all targets and, as the last class, the end token."""
    targets = self.head[NUM_RESERVED : NUM_RESERVED + self.target_size]
    rows = jnp.concatenate([targets, self.head[EOS : EOS + 1]]).astype(hidden.dtype)
    logits = jnp.einsum("ble,ce->blc", hidden, rows, preferred_element_type=jnp.float32)
    return nn.with_logical_constraint(logits, ("batch", "length", None))

  def _places(self, memory: Float[Array, "batch source embed"]) -> Float[Array, "1 source"]:
    """Returns the positions of source tokens in units of targets, see `targets_per_source`."""
    return (jnp.arange(memory.shape[1]) * self.config.targets_per_source)[None]

  def _embed(self, table: Array, tokens: Int[Array, "batch length"]):
    rows = nn.with_logical_constraint(table.astype(self.config.transformer.dtype), ("vocab", None))
    x = nn.with_logical_constraint(rows[tokens], ("batch", "length", "embed"))
    return self.dropout(x)


class _Stack(nn.Module):
  """A stack of layers and a norm of its output."""

  config: TransformerConfig
  block: type[nn.Module]
  deterministic: bool

  def setup(self):
    self.layers = layer_stack(self.block, self.config, self.config, self.deterministic)
    self.final_norm = RMSNorm(jnp.dtype(self.config.dtype))

  def __call__(self, x: Float[Array, "batch length embed"], context: PyTree):
    return self.final_norm(run_layers(self.layers, x, context))


class CrossAttention(Attention):
  """Attention from targets to the source.

  The position of a source token is multiplied by `targets_per_source`. The product is the position
  at which the targets for this token are expected. Rotary embeddings represent the distance between
  a target and this position.
  """

  def __call__(
    self,
    x: Float[Array, "batch length embed"],
    positions: Int[Array, "1 length"],
    memory: Float[Array, "batch source embed"],
    places: Float[Array, "1 source"],
    valid: Bool[Array, "batch source"],
  ) -> Float[Array, "batch length embed"]:
    """Returns the attention output for all targets."""
    query, (keys, values) = self._query(x, positions), self.key_values(memory, places)
    logits = scores(query, keys)
    logits = jnp.where(valid[:, None, None, None], logits * self.config.head_size**-0.5, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    return self._combine(weighted_sums(weights, values))

  def key_values(
    self, memory: Float[Array, "batch source embed"], places: Float[Array, "1 source"]
  ) -> KeyValues:
    """Returns the keys and values of the source."""
    keys = rotate(self.key(memory), places, self.config.rotary_base)
    return self._by_head(keys, self.value(memory))

  def decode_step(
    self,
    x: Float[Array, "batch 1 embed"],
    position: Int[Array, "batch 1"],
    source: Cache,
    bias: Float[Array, "batch 1 source"],
  ) -> Float[Array, "batch 1 embed"]:
    """Returns the attention output for one target per row."""
    return self._combine(cached_attention(self._query(x, position), [(source, bias)]))

  def _query(self, x: Float[Array, "batch length embed"], positions: Int[Array, "#batch length"]):
    return self._by_group(rotate(self.query(x), positions, self.config.rotary_base))


class DecoderBlock(nn.Module):
  """One pre-norm layer: self-attention of targets, cross-attention to the source, feed-forward."""

  config: TransformerConfig
  deterministic: bool = True

  def setup(self):
    c = self.config
    dtype = jnp.dtype(c.dtype)
    self.attention_norm, self.attention = RMSNorm(dtype), SelfAttention(c)
    self.cross_norm, self.cross = RMSNorm(dtype), CrossAttention(c)
    self.mlp_norm, self.mlp = RMSNorm(dtype), Mlp(c, self.deterministic)
    self.dropout = dropout_of(c, self.deterministic)

  def __call__(
    self, x: Float[Array, "batch length embed"], context: DecoderContext
  ) -> tuple[Float[Array, "batch length embed"], None]:
    """Returns the output in training, and None as the second value that `nn.scan` requires."""
    added, _ = self.attention.prefill(self.attention_norm(x), context.own)
    x = x + self.dropout(added)
    positions, memory = context.own.positions, context.memory
    cross = self.cross(self.cross_norm(x), positions, memory, context.places, context.valid)
    x = x + self.dropout(cross)
    return self._feed_forward(x), None

  def decode_step(self, x: Float[Array, "batch 1 embed"], position, attend, source, bias):
    """Returns the output for one token per row, and the updated cache of self-attention."""
    added, cache = self.attention.decode_step(self.attention_norm(x), position, attend)
    x = x + added
    x = x + self.cross.decode_step(self.cross_norm(x), position, source, bias)
    return self._feed_forward(x), cache

  def _feed_forward(self, x):
    x = x + self.dropout(self.mlp(self.mlp_norm(x)))
    return nn.with_logical_constraint(x, ("batch", "length", "embed"))
