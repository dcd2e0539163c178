"""The decoder-only transformer that all stages share.

One set of modules serves training (`Transformer.__call__`), prefill (`prefill`) and one decoding
step (`decode_step`), so that the three cannot drift apart.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from audiolm_jax.core import products
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm.attention import (
  PREFILL_BLOCK,
  KeyValues,
  RelativeBias,
  bias_blocks,
  causal_attention,
  rotate,
)
from audiolm_jax.lm.layers import Projection, RMSNorm


class Positions(enum.StrEnum):
  """How attention knows distances."""

  T5_RELATIVE = "t5_relative"
  ROTARY = "rotary"


class FeedForward(enum.StrEnum):
  """The activation between the two feed-forward products; gated ones have a third product."""

  RELU = "relu"
  GELU = "gelu"
  GATED_GELU = "gated_gelu"
  GATED_SILU = "gated_silu"


class Remat(enum.StrEnum):
  """What the backward pass recomputes: nothing, all but plain matrix products, or whole layers."""

  NONE = "none"
  MINIMAL = "minimal"
  FULL = "full"


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Shape of a stage's transformer; the defaults are the paper's.

  The twelve layers hold 151 019 520 parameters (the paper speaks of 0.3 B, which this shape does
  not give), 151 021 056 with the shared position table and the final norm. With the paper's
  vocabularies, embedding and output layer included, a semantic stage has 153 126 400, a coarse
  stage 161 515 008 and a fine stage 176 195 072.

  Attributes:
    num_layers, embed_dim, num_heads, mlp_dim: the usual.
    head_dim: 0 means embed_dim / num_heads.
    num_kv_heads: heads that keys and values have; 0 means num_heads.
    feed_forward: see `FeedForward`.
    positions: see `Positions`.
    num_buckets, max_distance: of T5 positions.
    rotary_base: slowest wavelength of rotary positions is 2 pi times this.
    num_frame_embeddings: rows of a learned embedding of each position's frame id, which tells
      tokens of the same moment in source and target apart from others; 0 (the paper) has none.
    dropout_rate: on the embedding, within the feed-forward layer and on what each layer adds; one
      mask for all positions of an example, as in T5X.
    scan_layers: keep the layers' parameters stacked and loop over them, which compiles faster.
    remat: see `Remat`.
    dtype: of the computation; parameters, softmax, norms and logits are float32.
  Source: AudioLM, section IV-B; T5 (arXiv 1910.10683) for the positions.
  """

  num_layers: int = 12
  embed_dim: int = 1024
  num_heads: int = 16
  head_dim: int = 0
  num_kv_heads: int = 0
  mlp_dim: int = 4096
  feed_forward: FeedForward = FeedForward.RELU
  positions: Positions = Positions.T5_RELATIVE
  num_buckets: int = 32
  max_distance: int = 128
  rotary_base: float = 10_000.0
  num_frame_embeddings: int = 0
  dropout_rate: float = 0.1
  scan_layers: bool = False
  remat: Remat = Remat.NONE
  dtype: str = "float32"

  def __post_init__(self):
    for name, choices in (
      ("feed_forward", FeedForward),
      ("positions", Positions),
      ("remat", Remat),
    ):
      try:
        object.__setattr__(self, name, choices(getattr(self, name)))
      except ValueError:
        raise ConfigError(
          f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}"
        ) from None
    if not self.head_dim and self.embed_dim % self.num_heads:
      raise ConfigError(
        f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}; "
        "set head_dim or change one of them"
      )
    if self.num_heads % self.kv_heads:
      raise ConfigError(
        f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
      )
    if self.positions is Positions.ROTARY and self.head_size % 2:
      raise ConfigError(f"rotary positions need an even head_dim, not {self.head_size}")

  def shape(self) -> "TransformerConfig":
    """Without what says how to compute it: two models of one shape take the same parameters."""
    return dataclasses.replace(
      self, dropout_rate=0.0, scan_layers=False, remat=Remat.NONE, dtype="float32"
    )

  @property
  def head_size(self) -> int:
    """Channels per head."""
    return self.head_dim or self.embed_dim // self.num_heads

  @property
  def kv_heads(self) -> int:
    """Heads of keys and values."""
    return self.num_kv_heads or self.num_heads

  @property
  def cache_bytes_per_token(self) -> int:
    """Bytes of key/value cache per token and row."""
    size = jnp.dtype(self.dtype).itemsize
    return 2 * self.num_layers * self.kv_heads * self.head_size * size

  def forward_flops(self, length: int) -> float:
    """Floating-point operations of the layers' matrix products for one row of `length` tokens.

    Attention counts the pairs of a query and a key that it may see; neither embedding nor output
    layer is in it.
    """
    attention = self.embed_dim * 2 * (self.num_heads + self.kv_heads) * self.head_size
    gated = self.feed_forward in (FeedForward.GATED_GELU, FeedForward.GATED_SILU)
    mlp = self.embed_dim * self.mlp_dim * (3 if gated else 2)
    pairs = length * (length + 1) / 2
    scores_and_sums = 2 * pairs * self.num_heads * self.head_size
    return 2.0 * self.num_layers * (length * (attention + mlp) + scores_and_sums)


class AttentionContext(NamedTuple):
  """What all layers need besides their input, in training and prefill.

  Attributes:
    biases: T5 bias and causal mask by block of queries (`bias_blocks`).
    positions: counted from each row's first real token; for rotary positions.
    key_mask: False on padding at the left; None if there is none.
  """

  biases: tuple[Float[Array, "shards heads _ _"], ...]
  positions: Int[Array, "#batch length"]
  key_mask: Bool[Array, "batch length"] | None


class SelfAttention(nn.Module):
  """Grouped-query self-attention."""

  config: TransformerConfig

  def setup(self):
    c = self.config
    dtype = jnp.dtype(c.dtype)
    query = (c.embed_dim, c.num_heads, c.head_size)
    key = (c.embed_dim, c.kv_heads, c.head_size)
    axes = ("embed", "heads", "kv")
    self.query = Projection(query, axes, dtype)
    self.key = Projection(key, axes, dtype)
    self.value = Projection(key, axes, dtype)
    self.output = Projection(
      (c.num_heads, c.head_size, c.embed_dim),
      ("heads", "kv", "embed"),
      dtype,
      num_inputs=2,
      scale=_residual_scale(c),
    )

  def prefill(
    self, x: Float[Array, "batch length embed"], context: AttentionContext
  ) -> tuple[Float[Array, "batch length embed"], KeyValues]:
    """Attention over a whole sequence, and its keys and values."""
    query, key_values = self._project(x, context.positions)
    output = causal_attention(query, key_values, context.biases, context.key_mask)
    return self._combine(output), key_values

  def decode_step(
    self,
    x: Float[Array, "batch 1 embed"],
    position: Int[Array, "batch 1"],
    attend: Any,
  ) -> tuple[Float[Array, "batch 1 embed"], Any]:
    """Attention of one token; `attend(query, key_values)` holds the cache and returns its new."""
    query, key_values = self._project(x, position)
    output, cache = attend(query, key_values)
    return self._combine(output), cache

  def _project(self, x, positions):
    c = self.config
    query, key, value = self.query(x), self.key(x), self.value(x)
    if c.positions is Positions.ROTARY:
      query = rotate(query, positions, c.rotary_base)
      key = rotate(key, positions, c.rotary_base)
    # Fewer key/value heads than query heads may not divide over devices: those stay whole.
    kv_heads = "heads" if c.kv_heads == c.num_heads else None
    query = nn.with_logical_constraint(query, ("batch", "length", "heads", "kv"))
    key = nn.with_logical_constraint(key, ("batch", "length", kv_heads, "kv"))
    value = nn.with_logical_constraint(value, ("batch", "length", kv_heads, "kv"))
    query = query.reshape(*query.shape[:2], c.kv_heads, c.num_heads // c.kv_heads, c.head_size)
    return query, KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2))

  def _combine(self, output):
    c = self.config
    output = output.reshape(*output.shape[:2], c.num_heads, c.head_size)
    return self.output(nn.with_logical_constraint(output, ("batch", "length", "heads", "kv")))


class Mlp(nn.Module):
  """The feed-forward layer, plain or gated."""

  config: TransformerConfig
  deterministic: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
    c = self.config
    dtype = jnp.dtype(c.dtype)
    shape, axes = (c.embed_dim, c.mlp_dim), ("embed", "mlp")
    hidden = _ACTIVATIONS[c.feed_forward](Projection(shape, axes, dtype, name="input")(x))
    if c.feed_forward in (FeedForward.GATED_GELU, FeedForward.GATED_SILU):
      hidden = hidden * Projection(shape, axes, dtype, name="gate")(x)
    hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
    hidden = _dropout(c, self.deterministic)(hidden)
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
    self.dropout = _dropout(c, self.deterministic)

  def __call__(
    self, x: Float[Array, "batch length embed"], context: AttentionContext
  ) -> tuple[Float[Array, "batch length embed"], None]:
    """The layer in training; the second value is what a scan over layers wants."""
    return self.prefill(x, context)[0], None

  def prefill(
    self, x: Float[Array, "batch length embed"], context: AttentionContext
  ) -> tuple[Float[Array, "batch length embed"], KeyValues]:
    """The layer, and its keys and values."""
    added, key_values = self.attention.prefill(self.attention_norm(x), context)
    return self._feed_forward(x + self.dropout(added)), key_values

  def decode_step(self, x: Float[Array, "batch 1 embed"], position, attend):
    """The layer for one token; see `SelfAttention.decode_step`."""
    added, cache = self.attention.decode_step(self.attention_norm(x), position, attend)
    return self._feed_forward(x + added), cache

  def _feed_forward(self, x):
    x = x + self.dropout(self.mlp(self.mlp_norm(x)))
    return nn.with_logical_constraint(x, ("batch", "length", "embed"))


class Transformer(nn.Module):
  """Decoder-only transformer over one stage's vocabulary.

  Attributes:
    config: shape and options.
    vocab_size: number of ids.
    deterministic: False switches dropout on (needs the "dropout" random stream).
  """

  config: TransformerConfig
  vocab_size: int
  deterministic: bool = True

  def setup(self):
    c = self.config
    embedding = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
    self.embedding = self.param("embedding", embedding, (self.vocab_size, c.embed_dim), jnp.float32)
    if c.num_frame_embeddings:
      frame = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("length", "embed"))
      shape = (c.num_frame_embeddings, c.embed_dim)
      self.frame_embedding = self.param("frame_embedding", frame, shape, jnp.float32)
    if c.positions is Positions.T5_RELATIVE:
      self.relative_bias = RelativeBias(c.num_heads, c.num_buckets, c.max_distance)
    # The attribute names are the parameters' names: "layers" stacked, "layers_0", ... not.
    if c.scan_layers:
      self.layers = nn.scan(
        _rematerialised(c),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=c.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
      )(c, self.deterministic)
    else:
      self.layers = [_rematerialised(c)(c, self.deterministic) for _ in range(c.num_layers)]
    self.final_norm = RMSNorm(jnp.dtype(c.dtype))
    self.head = self.param(
      "head",
      nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed")),
      (self.vocab_size, c.embed_dim),
      jnp.float32,
    )
    self.dropout = _dropout(c, self.deterministic)

  def __call__(
    self,
    tokens: Int[Array, "batch length"],
    frame_ids: Int[Array, "batch length"] | None = None,
  ) -> Float[Array, "batch length vocab"]:
    """Logits of the token after each input token.

    Args:
      tokens: the input ids (begin token first).
      frame_ids: each *target's* frame id; needed if the config has frame embeddings.
    Returns:
      float32 logits over all ids.
    """
    return self.logits(self.hidden(tokens, frame_ids))

  def hidden(
    self,
    tokens: Int[Array, "batch length"],
    frame_ids: Int[Array, "batch length"] | None = None,
  ) -> Float[Array, "batch length embed"]:
    """The last layer's normalised output, before the output layer."""
    x = self._embed(tokens, frame_ids)
    positions = jnp.arange(tokens.shape[1])[None]
    bias = self.distance_bias(tokens.shape[1], len(tokens))
    context = AttentionContext(bias_blocks(bias), positions, None)
    if self.config.scan_layers:
      x, _ = self.layers(x, context)
    else:
      for layer in self.layers:
        x, _ = layer(x, context)
    return self.final_norm(x)

  def prefill(
    self,
    tokens: Int[Array, "batch length"],
    frame_ids: Int[Array, "batch length"] | None,
    padding: Int[Array, "batch"],
  ) -> tuple[Float[Array, "batch length embed"], tuple[KeyValues, ...]]:
    """Reads a prompt whose rows begin after `padding` ignored tokens; needs unstacked layers.

    Returns:
      What `hidden` returns, and each layer's keys and values; both arbitrary at the padding.
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
    attends: Sequence[Any],
  ) -> tuple[Float[Array, "batch embed"], tuple[Any, ...]]:
    """Reads one token per row; needs unstacked layers.

    Args:
      position: of this token, counted from each row's first real token.
      attends: for each layer a function `(query, key_values) -> (output, cache)`.
    """
    x = self._embed(token[:, None], None if frame_id is None else frame_id[:, None])
    caches = []
    for layer, attend in zip(self.layers, attends, strict=True):
      x, cache = layer.decode_step(x, position[:, None], attend)
      caches.append(cache)
    return self.final_norm(x)[:, 0], tuple(caches)

  def distance_bias(self, length: int, batch: int = 1) -> Float[Array, "shards heads length"]:
    """The attention bias by distance; one head of zeros where positions are rotary."""
    if self.config.positions is Positions.T5_RELATIVE:
      return self.relative_bias(length, batch)
    return jnp.zeros((1, 1, length), jnp.float32)

  def logits(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
    """The output layer over all ids, float32."""
    logits = _scores(hidden, self.head)
    names = ("batch", "length", "vocab") if logits.ndim == 3 else ("batch", "vocab")
    return nn.with_logical_constraint(logits, names)

  def codebook_logits(
    self,
    hidden: Float[Array, "batch frames quantizers embed"],
    start: int,
    size: int,
  ) -> Float[Array, "batch frames quantizers size"]:
    """Logits of quantizer q over the ids `start + q * size` and on, `size` of them, float32.

    A target position admits one codebook's ids only, so this is the output layer without the
    rows that no sampler may choose; at `quantizers` 1 it is any one range of ids.
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
    """Logits of the ids `start .. start + size - 1`; `start` may be traced."""
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
    """A table to look up whole rows in: gathering it first is cheaper than the looked-up parts."""
    return nn.with_logical_constraint(table.astype(self.config.dtype), (axis, None))


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters of a scanned transformer as those of an unscanned one; others pass unchanged."""
  if "layers" not in params:
    return dict(params)
  stacked = params["layers"]
  count = jax.tree.leaves(stacked)[0].shape[0]
  rest = {name: value for name, value in params.items() if name != "layers"}
  layers = {f"layers_{i}": jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(count)}
  return rest | layers


def stack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `unstack_layers`."""
  names = sorted((n for n in params if n.startswith("layers_")), key=lambda n: int(n[7:]))
  if not names:
    return dict(params)
  rest = {name: value for name, value in params.items() if name not in names}
  return rest | {"layers": jax.tree.map(lambda *a: jnp.stack(a), *(params[n] for n in names))}


_ACTIVATIONS = {
  FeedForward.RELU: jax.nn.relu,
  FeedForward.GELU: jax.nn.gelu,
  FeedForward.GATED_GELU: jax.nn.gelu,
  FeedForward.GATED_SILU: jax.nn.silu,
}


def _residual_scale(config: TransformerConfig) -> float:
  """What each layer adds starts small, so that the sum over layers has the input's scale."""
  return (2 * config.num_layers) ** -0.5


def _dropout(config: TransformerConfig, deterministic: bool) -> nn.Dropout:
  return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic)


def _rematerialised(config: TransformerConfig) -> type[nn.Module]:
  if config.remat is Remat.NONE:
    return Block
  policies = jax.checkpoint_policies
  policy = policies.dots_with_no_batch_dims_saveable if config.remat is Remat.MINIMAL else None
  return nn.remat(Block, policy=policy, prevent_cse=not config.scan_layers)


def _scores(hidden: Float[Array, "*batch embed"], head: Float[Array, "vocab embed"]):
  return jnp.einsum(
    "...d,vd->...v", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32
  )
