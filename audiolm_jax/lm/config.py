"""The configuration of a transformer: its shape and the settings of its computation."""

import dataclasses
import enum

import jax.numpy as jnp

from audiolm_jax.core import configs, shapes
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.layers import Remat
from audiolm_jax.core.ranges import Depth, DType, RotaryBase, Rows, Share, Taps, Width, WidthOrNone


class Positions(enum.StrEnum):
  """The representation of positions in attention."""

  T5_RELATIVE = "t5_relative"
  ROTARY = "rotary"


class FeedForward(enum.StrEnum):
  """The activation of a feed-forward layer; gated activations need a third matrix product."""

  RELU = "relu"
  GELU = "gelu"
  GATED_GELU = "gated_gelu"
  GATED_SILU = "gated_silu"


@dataclasses.dataclass(frozen=True)
class TransformerConfig(configs.Renewed):
  """Shape of a stage's transformer; the defaults are the values of the paper.

  Strings of `feed_forward`, `positions` and `remat` become members of their enumerations.

  The twelve layers have 151 019 520 parameters, or 151 021 056 parameters with the shared position
  table and the final norm. The paper states 0.3 B parameters for the same shape. With embedding and
  output layer for the vocabularies of the paper, a semantic stage has 153 126 400 parameters, a
  coarse stage 161 515 008 and a fine stage 176 195 072.

  Attributes:
    num_layers: number of layers.
    dim: width of the layers.
    num_heads: number of query heads.
    head_dim: channels per head; 0 means dim / num_heads.
    num_kv_heads: number of key and value heads; 0 means num_heads.
    mlp_dim: width inside the feed-forward layers.
    feed_forward: activation, see `FeedForward`.
    positions: representation of positions, see `Positions`.
    num_buckets: number of buckets of T5 positions, at least 2.
    max_distance: all distances from this number on share one T5 bucket; must be more than half of
      `num_buckets`.
    rotary_base: base of rotary positions; all wavelengths are between 2 pi and 2 pi times the base,
      in positions.
    num_frame_embeddings: number of rows of a learned embedding table for frame ids; source and
      target tokens of the same time have equal frame ids. 0, as in the paper, for no such table.
    dropout_rate: rate of dropout on embeddings, inside feed-forward layers, and on the outputs of
      attention and feed-forward layers. All positions of an example have the same mask, as in T5X.
    scan_layers: whether to stack the parameters of the layers and to compute the layers in a loop,
      which makes compilation faster.
    remat: values that the backward pass recomputes, see `Remat`.
    dtype: dtype of the computation; parameters, softmax, norms and logits are float32.

  Source: AudioLM, section IV-B; T5 (arXiv 1910.10683) for the positions.
  """

  num_layers: Depth = 12
  dim: Width = 1024
  num_heads: Width = 16
  head_dim: WidthOrNone = 0
  num_kv_heads: WidthOrNone = 0
  mlp_dim: Width = 4096
  feed_forward: FeedForward | str = FeedForward.RELU
  positions: Positions | str = Positions.T5_RELATIVE
  num_buckets: Taps = 32
  max_distance: Rows = 128
  rotary_base: RotaryBase = 10_000.0
  num_frame_embeddings: Rows = 0
  dropout_rate: Share = 0.1
  scan_layers: bool = False
  remat: Remat | str = Remat.NONE
  dtype: DType = "float32"

  @classmethod
  def renewed(cls, values: configs.Json) -> configs.Json:
    """Renames the field `embed_dim` of earlier versions to `dim`."""
    return {("dim" if name == "embed_dim" else name): value for name, value in values.items()}

  def __post_init__(self):
    configs.set_members(self, feed_forward=FeedForward, positions=Positions, remat=Remat)
    if not self.head_dim and self.dim % self.num_heads:
      raise ConfigError(
        f"dim {self.dim} is not a multiple of num_heads {self.num_heads}; "
        "set head_dim or change one of them"
      )
    if self.num_heads % self.kv_heads:
      raise ConfigError(
        f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
      )
    if self.positions is Positions.ROTARY and self.head_size % 2:
      raise ConfigError(f"rotary positions need an even head_dim, not {self.head_size}")
    if self.positions is Positions.T5_RELATIVE:
      if self.num_buckets < 2:
        raise ConfigError(f"num_buckets is {self.num_buckets}; T5 positions need at least 2")
      if self.max_distance <= self.num_buckets // 2:
        raise ConfigError(
          f"max_distance is {self.max_distance}; T5 positions with num_buckets {self.num_buckets} "
          f"need more than {self.num_buckets // 2}"
        )

  def shape(self) -> "TransformerConfig":
    """Returns the configuration with fixed values for the settings of the computation.

    These settings are `dropout_rate`, `scan_layers`, `remat` and `dtype`. Models whose shapes are
    equal can use the same inference parameters.
    """
    return dataclasses.replace(
      self, dropout_rate=0.0, scan_layers=False, remat=Remat.NONE, dtype="float32"
    )

  def parameter_shapes(self, vocab_size: int) -> shapes.Shapes:
    """Returns the shapes of the parameters of `Transformer`, with unstacked layers."""
    dim, query, key = self.dim, self.num_heads, self.kv_heads
    gated = self.feed_forward in (FeedForward.GATED_GELU, FeedForward.GATED_SILU)
    layer = {
      "attention_norm": {"scale": (dim,)},
      "attention": {
        "query": {"kernel": (dim, query, self.head_size)},
        "key": {"kernel": (dim, key, self.head_size)},
        "value": {"kernel": (dim, key, self.head_size)},
        "output": {"kernel": (query, self.head_size, dim)},
      },
      "mlp_norm": {"scale": (dim,)},
      "mlp": {
        "input": {"kernel": (dim, self.mlp_dim)},
        **({"gate": {"kernel": (dim, self.mlp_dim)}} if gated else {}),
        "output": {"kernel": (self.mlp_dim, dim)},
      },
    }
    found: shapes.Shapes = {
      "embedding": (vocab_size, dim),
      **{f"layers_{i}": layer for i in range(self.num_layers)},
      "final_norm": {"scale": (dim,)},
      "head": (vocab_size, dim),
    }
    if self.num_frame_embeddings:
      found["frame_embedding"] = (self.num_frame_embeddings, dim)
    if self.positions is Positions.T5_RELATIVE:
      found["relative_bias"] = {"table": (self.num_buckets, self.num_heads)}
    return found

  @property
  def head_size(self) -> int:
    """Number of channels per head."""
    return self.head_dim or self.dim // self.num_heads

  @property
  def kv_heads(self) -> int:
    """Number of key and value heads."""
    return self.num_kv_heads or self.num_heads

  @property
  def cache_bytes_per_token(self) -> int:
    """Size of the key/value cache in bytes, per token of one row."""
    size = jnp.dtype(self.dtype).itemsize
    return 2 * self.num_layers * self.kv_heads * self.head_size * size

  def forward_flops(self, length: int) -> float:
    """Returns the FLOPs of the matrix products of all layers for one row of `length` tokens.

    In attention, only pairs of a query and an unmasked key are counted. The embedding and the
    output layer are excluded.
    """
    attention = self.dim * 2 * (self.num_heads + self.kv_heads) * self.head_size
    gated = self.feed_forward in (FeedForward.GATED_GELU, FeedForward.GATED_SILU)
    mlp = self.dim * self.mlp_dim * (3 if gated else 2)
    pairs = length * (length + 1) / 2
    scores_and_sums = 2 * pairs * self.num_heads * self.head_size
    return 2.0 * self.num_layers * (length * (attention + mlp) + scores_and_sums)
