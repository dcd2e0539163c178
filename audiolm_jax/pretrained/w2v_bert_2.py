"""w2v-BERT 2.0, an encoder from log-mel features to features of one of its layers, and its weights.

Source: Seamless Communication, "Seamless: Multilingual Expressive and Streaming Speech
Translation", 2023 (arXiv 2312.05187), section 3.2.1; for the blocks, Gulati et al., "Conformer",
2020 (arXiv 2005.08100); for the relative keys, Shaw, Uszkoreit and Vaswani, "Self-Attention with
Relative Position Representations", 2018 (arXiv 1803.02155).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Depth, Epsilon, Steps, Taps, Width
from audiolm_jax.pretrained import kaldi_features
from audiolm_jax.pretrained.weights import PublishedWeights, fields_of
from audiolm_jax.semantic.conformer import band_to_square

FRAMES_PER_STEP = 2


@dataclasses.dataclass(frozen=True)
class W2vBert2Config:
  """Shape of a w2v-BERT 2.0; the defaults are those of the published model.

  Attributes:
    num_mels: bands of the log-mel features of a frame; two frames form a step.
    dim: dimension of the features.
    num_layers: number of Conformer blocks.
    num_heads: number of attention heads.
    feed_forward_dim: width between two dense layers.
    kernel_size: kernel size of the causal convolutions.
    left_positions: largest distance to an earlier step with its own relative key; all larger
      distances share this key.
    right_positions: largest distance to a later step with its own relative key; all larger
      distances share this key.
    norm_epsilon: added to the variance in the layer norms.

  Raises:
    ConfigError: `dim` is not a multiple of `num_heads`.
  """

  num_mels: Taps = 80
  dim: Width = 1024
  num_layers: Depth = 24
  num_heads: Width = 16
  feed_forward_dim: Width = 4096
  kernel_size: Taps = 31
  left_positions: Steps = 64
  right_positions: Steps = 8
  norm_epsilon: Epsilon = 1e-5

  def __post_init__(self) -> None:
    if self.dim % self.num_heads:
      raise ConfigError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads}")

  def parameter_shapes(self, layer: int) -> shapes.Shapes:
    """Returns the shapes of the parameters of `W2vBert2Encoder` with its first `layer` blocks."""
    dim, bands = self.dim, FRAMES_PER_STEP * self.num_mels
    positions = self.left_positions + 1 + self.right_positions
    feed_forward = {
      "norm": shapes.norm(dim),
      "expand": shapes.dense(dim, self.feed_forward_dim),
      "contract": shapes.dense(self.feed_forward_dim, dim),
    }
    block = {
      "feed_forward_0": feed_forward,
      "attention": {
        "norm": shapes.norm(dim),
        **{name: shapes.dense(dim, dim) for name in ("query", "key", "value", "output")},
        "relative_keys": (positions, dim // self.num_heads),
      },
      "convolution": {
        "norm": shapes.norm(dim),
        "expand": shapes.dense(dim, 2 * dim, bias=False),
        "depthwise": (self.kernel_size, dim),
        "depthwise_norm": shapes.norm(dim),
        "project": shapes.dense(dim, dim, bias=False),
      },
      "feed_forward_1": feed_forward,
      "norm": shapes.norm(dim),
    }
    return {
      "projection_norm": shapes.norm(bands),
      "projection": shapes.dense(bands, dim),
      **{f"block_{i}": block for i in range(layer)},
    }

  @property
  def sample_rate(self) -> int:
    """Sample rate in Hz."""
    return kaldi_features.SAMPLE_RATE

  @property
  def hop_length(self) -> int:
    """Samples from one step to the next."""
    return FRAMES_PER_STEP * kaldi_features.HOP_LENGTH

  @property
  def step_length(self) -> int:
    """Number of samples that the frames of a step cover."""
    return kaldi_features.WINDOW_LENGTH + kaldi_features.HOP_LENGTH * (FRAMES_PER_STEP - 1)


class W2vBert2Encoder(nn.Module):
  """The first blocks of a w2v-BERT 2.0; clips of a batch are independent."""

  config: W2vBert2Config
  layer: int

  @nn.compact
  def __call__(
    self, log_mel: Float[Array, "batch steps bands"], ends: Int[Array, "batch"]
  ) -> Float[Array, "batch steps dim"]:
    """Returns features of block `layer`, counted from 1; steps after a row's end are arbitrary.

    Args:
      log_mel: log-mel features; the frames of each step are concatenated.
      ends: number of steps of each row, at least 1.
    """
    c = self.config
    inside = jnp.arange(log_mel.shape[1])[None] < ends[:, None]
    x = nn.Dense(c.dim, name="projection")(_layer_norm(c, "projection_norm")(log_mel))
    for i in range(self.layer):
      x = W2vBert2Block(c, name=f"block_{i}")(x, inside)
    return x


class W2vBert2Block(nn.Module):
  """A Conformer block: feed-forward, attention, convolution, feed-forward, norm.

  The output of each part except the norm is added to its input. Before this sum, outputs of
  feed-forward parts are multiplied by 1/2.
  """

  config: W2vBert2Config

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch steps dim"], inside: Bool[Array, "batch steps"]
  ) -> Float[Array, "batch steps dim"]:
    c = self.config
    x = x + 0.5 * W2vBert2FeedForward(c, name="feed_forward_0")(x)
    x = x + W2vBert2Attention(c, name="attention")(x, inside)
    x = x + CausalConvolution(c, name="convolution")(x)
    x = x + 0.5 * W2vBert2FeedForward(c, name="feed_forward_1")(x)
    return _layer_norm(c, "norm")(x)


class W2vBert2FeedForward(nn.Module):
  """Norm, dense expansion, swish, dense contraction."""

  config: W2vBert2Config

  @nn.compact
  def __call__(self, x: Float[Array, "batch steps dim"]) -> Float[Array, "batch steps dim"]:
    c = self.config
    x = nn.swish(nn.Dense(c.feed_forward_dim, name="expand")(_layer_norm(c, "norm")(x)))
    return nn.Dense(c.dim, name="contract")(x)


class W2vBert2Attention(nn.Module):
  """Self-attention of every step to all steps of its clip, with a relative key per distance."""

  config: W2vBert2Config

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch steps dim"], inside: Bool[Array, "batch steps"]
  ) -> Float[Array, "batch steps dim"]:
    c = self.config
    size = c.dim // c.num_heads
    x = _layer_norm(c, "norm")(x)
    query, key, value = (
      nn.Dense(c.dim, name=name)(x).reshape(*x.shape[:2], c.num_heads, size)
      for name in ("query", "key", "value")
    )
    relative_keys = self.param(
      "relative_keys",
      nn.initializers.normal(size**-0.5),
      (c.left_positions + 1 + c.right_positions, size),
    )
    by_offset = size**-0.5 * jnp.einsum("bqhd,wd->bhqw", query, relative_keys)
    seen = jax.nn.dot_product_attention(
      query, key, value, bias=_by_position(by_offset, c), mask=inside[:, None, None, :]
    )
    return nn.Dense(c.dim, name="output")(seen.reshape(x.shape))


def _by_position(
  by_offset: Float[Array, "batch heads steps offsets"], config: W2vBert2Config
) -> Float[Array, "batch heads steps steps"]:
  """Returns the value of each pair of query and key; distant pairs use the first or last offset."""
  steps = jnp.arange(by_offset.shape[2])
  offset = steps[None, :] - steps[:, None]
  near = band_to_square(by_offset, config.left_positions)
  near = jnp.where(offset < -config.left_positions, by_offset[..., :1], near)
  return jnp.where(offset > config.right_positions, by_offset[..., -1:], near)


class CausalConvolution(nn.Module):
  """Norm, gated dense expansion, causal depthwise convolution, norm, swish, dense projection."""

  config: W2vBert2Config

  @nn.compact
  def __call__(self, x: Float[Array, "batch steps dim"]) -> Float[Array, "batch steps dim"]:
    c = self.config
    x = _layer_norm(c, "norm")(x)
    x = nn.glu(nn.Dense(2 * c.dim, use_bias=False, name="expand")(x))
    kernel = self.param(
      "depthwise", nn.initializers.normal(c.kernel_size**-0.5), (c.kernel_size, c.dim)
    )
    # Shifted slices fuse into one pass, unlike a grouped convolution.
    padded = jnp.pad(x, ((0, 0), (c.kernel_size - 1, 0), (0, 0)))
    taps = [padded[:, k : k + x.shape[1]] * kernel[k] for k in range(c.kernel_size)]
    x = nn.swish(_layer_norm(c, "depthwise_norm")(sum(taps[1:], taps[0])))
    return nn.Dense(c.dim, use_bias=False, name="project")(x)


def _layer_norm(config: W2vBert2Config, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(config.norm_epsilon, use_fast_variance=False, name=name)


_FIXED = {
  "hidden_act": "swish",
  "position_embeddings_type": "relative_key",
  "add_adapter": False,
  "use_intermediate_ffn_before_adapter": False,
}


def read_config(published: Json) -> W2vBert2Config:
  """Returns the configuration from the `config.json` of a model of Hugging Face transformers.

  Raises:
    ConfigError: the model is not a w2v-BERT 2.0, a field is missing, or a value is not supported.
  """
  with fields_of(published, "wav2vec2-bert", _FIXED, "facebook/w2v-bert-2.0"):
    num_mels, odd = divmod(published["feature_projection_input_dim"], FRAMES_PER_STEP)
    if odd:
      raise ConfigError(
        f"config.json has feature_projection_input_dim {2 * num_mels + odd}, which is not two "
        "frames per step; use facebook/w2v-bert-2.0"
      )
    return W2vBert2Config(
      num_mels=num_mels,
      dim=published["hidden_size"],
      num_layers=published["num_hidden_layers"],
      num_heads=published["num_attention_heads"],
      feed_forward_dim=published["intermediate_size"],
      kernel_size=published["conv_depthwise_kernel_size"],
      left_positions=published["left_max_position_embeddings"],
      right_positions=published["right_max_position_embeddings"],
      norm_epsilon=published["layer_norm_eps"],
    )


def convert_encoder(config: W2vBert2Config, weights: PublishedWeights, layer: int) -> Params:
  """Returns parameters of `W2vBert2Encoder` from weights in the format of transformers.

  Args:
    config: shape of the encoder.
    weights: tensors of the model by name.
    layer: number of blocks; the tensors of later blocks must exist, but are not used.

  Raises:
    ConfigError: a tensor has a wrong shape.
    DataError: a tensor is missing or unused.
  """
  blocks = [_block(weights, f"encoder.layers.{i}") for i in range(config.num_layers)]
  params = {
    "projection_norm": weights.norm("feature_projection.layer_norm"),
    "projection": weights.dense("feature_projection.projection"),
  }
  params |= {f"block_{i}": block for i, block in enumerate(blocks[:layer])}
  if "masked_spec_embed" in weights.tensors:
    weights.take("masked_spec_embed")  # the embedding of masked steps, for training only
  weights.check_all_used()
  weights.check_shapes(params, config.parameter_shapes(layer))
  return params


def _block(weights: PublishedWeights, name: str) -> Params:
  attention, convolution = f"{name}.self_attn", f"{name}.conv_module"
  return {
    "feed_forward_0": _feed_forward(weights, f"{name}.ffn1"),
    "attention": {
      "norm": weights.norm(f"{attention}_layer_norm"),
      "query": weights.dense(f"{attention}.linear_q"),
      "key": weights.dense(f"{attention}.linear_k"),
      "value": weights.dense(f"{attention}.linear_v"),
      "output": weights.dense(f"{attention}.linear_out"),
      "relative_keys": weights.take(f"{attention}.distance_embedding.weight"),
    },
    "convolution": {
      "norm": weights.norm(f"{convolution}.layer_norm"),
      "expand": {"kernel": weights.take(f"{convolution}.pointwise_conv1.weight")[..., 0].T},
      "depthwise": weights.take(f"{convolution}.depthwise_conv.weight")[:, 0].T,
      "depthwise_norm": weights.norm(f"{convolution}.depthwise_layer_norm"),
      "project": {"kernel": weights.take(f"{convolution}.pointwise_conv2.weight")[..., 0].T},
    },
    "feed_forward_1": _feed_forward(weights, f"{name}.ffn2"),
    "norm": weights.norm(f"{name}.final_layer_norm"),
  }


def _feed_forward(weights: PublishedWeights, name: str) -> Params:
  return {
    "norm": weights.norm(f"{name}_layer_norm"),
    "expand": weights.dense(f"{name}.intermediate_dense"),
    "contract": weights.dense(f"{name}.output_dense"),
  }
