"""HuBERT, an encoder from waveform to features of one of its layers, and its weights.

Source: Hsu, Bolte, Tsai, Lakhotia, Salakhutdinov and Mohamed, "HuBERT: Self-Supervised Speech
Representation Learning by Masked Prediction of Hidden Units", 2021 (arXiv 2106.07447).
"""

import dataclasses
import enum
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Depth, Epsilon, SampleRate, Taps, Width
from audiolm_jax.pretrained.weights import PublishedWeights, fields_of

_NORM_EPSILON = 1e-5  # in the norms of the convolutions, regardless of config.json


class FrontNorm(enum.StrEnum):
  """Normalization of the convolutions and of the waveform.

  GROUP normalizes each channel over the whole clip, in the first layer only, and does not normalize
  the waveform. LAYER normalizes each frame over its channels, in every layer, and the waveform to
  mean 0 and variance 1.
  """

  GROUP = "group"
  LAYER = "layer"


class BlockNorm(enum.StrEnum):
  """Position of the norms of a transformer block: after or before each residual branch.

  POST normalizes the sum of a branch and its input; PRE normalizes the input of a branch.
  """

  POST = "post"
  PRE = "pre"


@dataclasses.dataclass(frozen=True)
class HubertConfig:
  """Shape of a HuBERT; the defaults are those of the base model.

  Attributes:
    channels: channels of the convolutions, first to last.
    kernels: kernel sizes of the convolutions.
    strides: strides of the convolutions; their product is the hop length.
    front_norm: norm of the convolutions.
    dim: dimension of the features.
    num_layers: number of transformer blocks.
    num_heads: number of attention heads.
    feed_forward_dim: width between the two dense layers of a block.
    block_norm: position of the norms of a block.
    position_taps: kernel size of the convolution that encodes positions.
    position_groups: channel groups of that convolution.
    norm_epsilon: added to the variance in the layer norms after the convolutions.
    sample_rate: Hz.

  Raises:
    ConfigError: the numbers of channels, kernels and strides differ, or `dim` is not a multiple of
      the number of heads or groups.
  """

  channels: tuple[Width, ...] = (512,) * 7
  kernels: tuple[Taps, ...] = (10, 3, 3, 3, 3, 2, 2)
  strides: tuple[Taps, ...] = (5, 2, 2, 2, 2, 2, 2)
  front_norm: FrontNorm = FrontNorm.GROUP
  dim: Width = 768
  num_layers: Depth = 12
  num_heads: Width = 12
  feed_forward_dim: Width = 3072
  block_norm: BlockNorm = BlockNorm.POST
  position_taps: Taps = 128
  position_groups: Width = 16
  norm_epsilon: Epsilon = 1e-5
  sample_rate: SampleRate = 16_000

  def __post_init__(self) -> None:
    if not len(self.channels) == len(self.kernels) == len(self.strides):
      raise ConfigError(
        f"{len(self.channels)} channels, {len(self.kernels)} kernels and {len(self.strides)} "
        "strides of the convolutions must be equal in number"
      )
    for name, parts in (("num_heads", self.num_heads), ("position_groups", self.position_groups)):
      if self.dim % parts:
        raise ConfigError(f"dim {self.dim} must be a multiple of {name} {parts}")

  def parameter_shapes(self, layer: int) -> shapes.Shapes:
    """Returns the shapes of the parameters of `HubertEncoder` with its first `layer` blocks."""
    front, inputs = {}, 1
    for i, (channels, kernel) in enumerate(zip(self.channels, self.kernels, strict=True)):
      front[f"conv_{i}"] = shapes.convolution(kernel, inputs, channels)
      if i == 0 or self.front_norm is FrontNorm.LAYER:
        front[f"norm_{i}"] = shapes.norm(channels)
      inputs = channels
    dim, wide = self.dim, self.feed_forward_dim
    names = ("query", "key", "value", "output")
    block = {
      "attention": {name: shapes.dense(dim, dim) for name in names},
      "attention_norm": shapes.norm(dim),
      "feed_forward_in": shapes.dense(dim, wide),
      "feed_forward_out": shapes.dense(wide, dim),
      "feed_forward_norm": shapes.norm(dim),
    }
    return {
      "front": front,
      "projection_norm": shapes.norm(inputs),
      "projection": shapes.dense(inputs, dim),
      "position": shapes.convolution(self.position_taps, dim // self.position_groups, dim),
      **({"norm": shapes.norm(dim)} if self.block_norm is BlockNorm.POST else {}),
      **{f"block_{i}": block for i in range(layer)},
    }

  @property
  def hop_length(self) -> int:
    """Samples from one frame to the next."""
    return math.prod(self.strides)

  @property
  def frame_length(self) -> int:
    """Number of samples that a frame of the convolutions covers."""
    length = 1
    for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
      length = (length - 1) * stride + kernel
    return length


class HubertEncoder(nn.Module):
  """The first blocks of a HuBERT; clips of a batch are independent."""

  config: HubertConfig
  layer: int

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"]
  ) -> Float[Array, "batch frames dim"]:
    """Returns features of block `layer`, counted from 1; frames after a row's end are arbitrary.

    Args:
      waveform: samples at the sample rate of the model.
      ends: number of samples of each row, at least `frame_length`.
    """
    c = self.config
    x, ends = Convolutions(c, name="front")(waveform, ends)
    inside = jnp.arange(x.shape[1])[None] < ends[:, None]
    x = _layer_norm(c, "projection_norm")(x)
    x = jnp.where(inside[..., None], nn.Dense(c.dim, name="projection")(x), 0.0)
    padding = (c.position_taps // 2, (c.position_taps - 1) // 2)
    position = nn.Conv(
      c.dim, (c.position_taps,), padding=[padding], feature_group_count=c.position_groups,
      name="position",
    )  # fmt: skip
    x = x + _gelu(position(x))
    if c.block_norm is BlockNorm.POST:
      x = _layer_norm(c, "norm")(x)
    for i in range(self.layer):
      x = HubertBlock(c, name=f"block_{i}")(x, inside)
    return x


class Convolutions(nn.Module):
  """Maps waveform to frames, without padding; frames do not depend on samples after a row's end."""

  config: HubertConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"]
  ) -> tuple[Float[Array, "batch frames channels"], Int[Array, "batch"]]:
    """Returns the frames and their number per row; `ends` are the lengths of rows in samples."""
    c = self.config
    x = waveform
    if c.front_norm is FrontNorm.LAYER:
      # The epsilon of the feature extractor that is published with the models.
      x = _standardized_over_time(x[..., None], ends, 1e-7)[..., 0]
    x = x[..., None]
    shapes = zip(c.channels, c.kernels, c.strides, strict=True)
    for i, (channels, kernel, stride) in enumerate(shapes):
      x = nn.Conv(channels, (kernel,), (stride,), padding="VALID", name=f"conv_{i}")(x)
      ends = (ends - kernel) // stride + 1
      if c.front_norm is FrontNorm.LAYER:
        x = nn.LayerNorm(_NORM_EPSILON, use_fast_variance=False, name=f"norm_{i}")(x)
      elif i == 0:
        x = ClipNorm(name="norm_0")(x, ends)
      x = _gelu(x)
    return x, ends


class ClipNorm(nn.Module):
  """Normalizes each channel over the frames of its clip, then scales and shifts it."""

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames channels"], ends: Int[Array, "batch"]
  ) -> Float[Array, "batch frames channels"]:
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
    return _standardized_over_time(x, ends, _NORM_EPSILON) * scale + bias


class HubertBlock(nn.Module):
  """A transformer block: self-attention over a whole clip, and two dense layers."""

  config: HubertConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames dim"], inside: Bool[Array, "batch frames"]
  ) -> Float[Array, "batch frames dim"]:
    c = self.config
    attention = HubertAttention(c, name="attention")
    attention_norm = _layer_norm(c, "attention_norm")
    feed_forward_norm = _layer_norm(c, "feed_forward_norm")
    if c.block_norm is BlockNorm.PRE:
      x = x + attention(attention_norm(x), inside)
      return x + self._feed_forward(feed_forward_norm(x))
    x = attention_norm(x + attention(x, inside))
    return feed_forward_norm(x + self._feed_forward(x))

  def _feed_forward(self, x: Float[Array, "batch frames dim"]) -> Float[Array, "batch frames dim"]:
    c = self.config
    x = _gelu(nn.Dense(c.feed_forward_dim, name="feed_forward_in")(x))
    return nn.Dense(c.dim, name="feed_forward_out")(x)


class HubertAttention(nn.Module):
  """Self-attention of every frame to all frames of its clip."""

  config: HubertConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames dim"], inside: Bool[Array, "batch frames"]
  ) -> Float[Array, "batch frames dim"]:
    c = self.config
    by_head = (*x.shape[:2], c.num_heads, c.dim // c.num_heads)
    query, key, value = (
      nn.Dense(c.dim, name=name)(x).reshape(by_head) for name in ("query", "key", "value")
    )
    seen = _attended(query, key, value, inside[:, None, None, :])
    return nn.Dense(c.dim, name="output")(seen.reshape(x.shape))


def _attended(
  query: Float[Array, "batch queries heads size"],
  key: Float[Array, "batch keys heads size"],
  value: Float[Array, "batch keys heads size"],
  mask: Bool[Array, "batch 1 1 keys"],
) -> Float[Array, "batch queries heads size"]:
  """Returns the output of the attention.

  The weighted sums are normalized instead of each weight, which saves a quarter of the time on
  CPUs.
  """
  query, value = (jnp.swapaxes(x, 1, 2) for x in (query * query.shape[-1] ** -0.5, value))
  scores = jnp.where(mask, query @ key.transpose(0, 2, 3, 1), -jnp.inf)
  weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
  return jnp.swapaxes(weights @ value / weights.sum(axis=-1, keepdims=True), 1, 2)


def _layer_norm(config: HubertConfig, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(config.norm_epsilon, use_fast_variance=False, name=name)


def _gelu(x: Array) -> Array:
  return jax.nn.gelu(x, approximate=False)


def _standardized_over_time(
  x: Float[Array, "batch time channels"], ends: Int[Array, "batch"], epsilon: float
) -> Float[Array, "batch time channels"]:
  """Normalizes each channel of the first `ends` positions of a row to mean 0 and variance 1."""
  inside = jnp.arange(x.shape[1])[None, :, None] < ends[:, None, None]
  count = ends[:, None, None]
  centred = x - jnp.sum(jnp.where(inside, x, 0.0), axis=1, keepdims=True) / count
  squares = jnp.where(inside, jnp.square(centred), 0.0)
  return centred * jax.lax.rsqrt(jnp.sum(squares, axis=1, keepdims=True) / count + epsilon)


def read_config(published: Json) -> HubertConfig:
  """Returns the configuration from the `config.json` of a model of Hugging Face transformers.

  Raises:
    ConfigError: the model is not a HuBERT, a field is missing, or a value is not supported.
  """
  with fields_of(published, "hubert"):
    for name, known in (
      ("feat_extract_norm", ("group", "layer")),
      ("feat_extract_activation", ("gelu",)),
      ("hidden_act", ("gelu",)),
      ("feat_proj_layer_norm", (True, None)),
      ("conv_pos_batch_norm", (False, None)),
      ("adapter_attn_dim", (None,)),
    ):
      if published.get(name) not in known:
        raise ConfigError(
          f"config.json has {name} {published.get(name)!r}; HuBERT requires {known[0]!r}"
          if len(known) == 1 or known[1] is None
          else f"config.json has {name} {published.get(name)!r}, which must be 'group' or 'layer'"
        )
    return HubertConfig(
      channels=tuple(published["conv_dim"]),
      kernels=tuple(published["conv_kernel"]),
      strides=tuple(published["conv_stride"]),
      front_norm=FrontNorm(published["feat_extract_norm"]),
      dim=published["hidden_size"],
      num_layers=published["num_hidden_layers"],
      num_heads=published["num_attention_heads"],
      feed_forward_dim=published["intermediate_size"],
      block_norm=BlockNorm.PRE if published["do_stable_layer_norm"] else BlockNorm.POST,
      position_taps=published["num_conv_pos_embeddings"],
      position_groups=published["num_conv_pos_embedding_groups"],
      norm_epsilon=published["layer_norm_eps"],
    )


def convert_encoder(config: HubertConfig, weights: PublishedWeights, layer: int) -> Params:
  """Returns parameters of `HubertEncoder` from weights in the format of Hugging Face transformers.

  Args:
    config: shape of the encoder.
    weights: tensors of the model by name, weight-normalized or plain.
    layer: number of blocks; the tensors of later blocks must exist, but are not used.

  Raises:
    ConfigError: a tensor has a wrong shape.
    DataError: a tensor is missing or unused.
  """
  params: dict[str, Params] = {
    "front": _front(config, weights),
    "projection_norm": weights.norm("feature_projection.layer_norm"),
    "projection": weights.dense("feature_projection.projection"),
    "position": weights.convolution("encoder.pos_conv_embed.conv"),
  }
  norm = weights.norm("encoder.layer_norm")
  if config.block_norm is BlockNorm.POST:
    params["norm"] = norm
  blocks = [_block(weights, f"encoder.layers.{i}") for i in range(config.num_layers)]
  params |= {f"block_{i}": block for i, block in enumerate(blocks[:layer])}
  if "masked_spec_embed" in weights.tensors:
    weights.take("masked_spec_embed")  # the embedding of masked frames, for training only
  weights.check_all_used()
  weights.check_shapes(params, config.parameter_shapes(layer))
  return params


def _front(config: HubertConfig, weights: PublishedWeights) -> Params:
  front: dict[str, Params] = {}
  for i, channels in enumerate(config.channels):
    name = f"feature_extractor.conv_layers.{i}"
    biased = f"{name}.conv.bias" in weights.tensors
    front[f"conv_{i}"] = {
      "kernel": weights.weight(f"{name}.conv").transpose(2, 1, 0),
      "bias": weights.take(f"{name}.conv.bias") if biased else np.zeros(channels, np.float32),
    }
    if i == 0 or config.front_norm is FrontNorm.LAYER:
      front[f"norm_{i}"] = weights.norm(f"{name}.layer_norm")
  return front


def _block(weights: PublishedWeights, name: str) -> Params:
  attention = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "out_proj",
  }
  return {
    "attention": {k: weights.dense(f"{name}.attention.{v}") for k, v in attention.items()},
    "attention_norm": weights.norm(f"{name}.layer_norm"),
    "feed_forward_in": weights.dense(f"{name}.feed_forward.intermediate_dense"),
    "feed_forward_out": weights.dense(f"{name}.feed_forward.output_dense"),
    "feed_forward_norm": weights.norm(f"{name}.final_layer_norm"),
  }
