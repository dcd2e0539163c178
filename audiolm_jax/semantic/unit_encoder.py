"""An encoder of phones for semantic tokens: ConvNeXt blocks over log-mel frames at 50 Hz.

The encoder is trained to predict frame labels that depend on the phone but not on the voice, see
`trainables/units.py`. It consists mainly of matrix products and sums of shifted arrays,
which are fast on CPUs.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from audiolm_jax.chunking import Reach
from audiolm_jax.core import modules, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Steps, Taps, Vocabulary, Width
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.semantic.chunked_tokenizer import TokenizedFeatures, unwhitened
from audiolm_jax.semantic.conformer import dense, layer_norm
from audiolm_jax.semantic.features import LogMelConfig, normalised_log_mel, power_spectrum
from audiolm_jax.semantic.log_mel_tokenizer import (
  LogMelTokenizer,
  LogMelTokenizerConfig,
  whitened,
)

# Number of frames that the first layer also reads on each side of a frame.
_NEIGHBOURS = 1


@dataclasses.dataclass(frozen=True)
class UnitEncoderConfig:
  """Shape of the encoder.

  Attributes:
    features: the log-mel front end; its hop is the length of a frame.
    dim: width of the blocks.
    dilations: for each block, the distance in frames between the taps of its convolution.
    kernel_size: taps of the convolutions, odd.
    expansion: inner width of a block, divided by `dim`.
    frames_per_step: number of frames whose features are averaged for one token.

  Raises:
    ConfigError: `kernel_size` is not odd, there are no dilations, or a value is less than 1.
  """

  features: LogMelConfig = LogMelConfig(hop_length=320)
  dim: Width = 256
  dilations: tuple[Taps, ...] = (1, 1, 2, 2, 4, 4)
  kernel_size: Taps = 9
  expansion: Taps = 3
  frames_per_step: Taps = 2

  def __post_init__(self) -> None:
    object.__setattr__(self, "dilations", tuple(self.dilations))
    if self.kernel_size % 2 == 0 or self.kernel_size < 1:
      raise ConfigError(f"kernel_size {self.kernel_size} must be odd")
    if not self.dilations or min(self.dilations) < 1:
      raise ConfigError(f"dilations {self.dilations} must be one positive number for each block")
    if min(self.dim, self.expansion, self.frames_per_step) < 1:
      raise ConfigError("dim, expansion and frames_per_step must be at least 1")

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of `UnitEncoder`."""
    dim, wide = self.dim, self.expansion * self.dim
    block = {
      "kernel": (self.kernel_size, dim),
      "scale": (dim,),
      "norm": shapes.norm(dim),
      "wide": shapes.dense(dim, wide),
      "narrow": shapes.dense(wide, dim),
    }
    return {
      "input": shapes.dense((2 * _NEIGHBOURS + 1) * self.features.num_mels, dim),
      **{f"block_{i}": block for i in range(len(self.dilations))},
      "norm": shapes.norm(dim),
    }

  @property
  def hop_length(self) -> int:
    """Samples per token."""
    return self.features.hop_length * self.frames_per_step

  @property
  def receptive_field(self) -> Reach:
    """The numbers of earlier and later steps that the features of a step depend on."""
    frames = _NEIGHBOURS + sum(self.dilations) * (self.kernel_size // 2)
    steps = -(-frames // self.frames_per_step)
    return Reach(steps, steps)

  def flops(self, frames: int) -> float:
    """Returns the FLOPs of the matrix products for one row of `frames` frames."""
    first = (2 * _NEIGHBOURS + 1) * self.features.num_mels * self.dim
    blocks = len(self.dilations) * 2 * self.expansion * self.dim**2
    return 2.0 * frames * (first + blocks)


class UnitEncoder(nn.Module):
  """Maps log-mel frames to the layer-normalised features of the last block."""

  config: UnitEncoderConfig

  @nn.compact
  def __call__(
    self, log_mel: Float[Array, "batch frames mels"], inside: Bool[Array, "batch frames"]
  ) -> Float[Array, "batch frames dim"]:
    """Returns the features of every frame.

    Args:
      log_mel: normalised log-mel features of the clips.
      inside: True for frames that contain samples of the clip; other frames do not influence these
        frames.
    """
    c = self.config
    keep = inside[..., None]
    x = _neighbours(log_mel * keep, _NEIGHBOURS, 1)
    x = dense(c.dim, ("conv_in", "embed"), "float32", name="input")(jnp.concatenate(x, axis=-1))
    for i, dilation in enumerate(c.dilations):
      x = ContextBlock(c.kernel_size, dilation, c.expansion, name=f"block_{i}")(x, keep)
    return layer_norm("float32", name="norm")(x)


def averaged_over_steps(
  features: Float[Array, "batch frames dim"], inside: Bool[Array, "batch frames"], count: int
) -> Float[Array, "batch steps dim"]:
  """Returns the mean features of each step of `count` frames; only frames in `inside` count.

  The last step of a clip may have fewer frames; the mean is 0 for a step without frames.
  """
  missing = -features.shape[1] % count
  features = jnp.pad(features, ((0, 0), (0, missing), (0, 0)))
  inside = jnp.pad(inside, ((0, 0), (0, missing)))
  steps = features.reshape(features.shape[0], -1, count, features.shape[2])
  kept = inside.reshape(steps.shape[:3])[..., None]
  return (steps * kept).sum(2) / jnp.maximum(kept.sum(2), 1)


class ContextBlock(nn.Module):
  """ConvNeXt block: depthwise convolution, layer norm, two dense layers, residual connection."""

  kernel_size: int
  dilation: int
  expansion: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames dim"], keep: Bool[Array, "batch frames 1"]
  ) -> Float[Array, "batch frames dim"]:
    """Returns the output for every frame; only frames in `keep` influence other frames."""
    dim = x.shape[-1]
    shape, axes = (self.kernel_size, dim), ("kernel", "embed")
    kernel = modules.param(self, "kernel", nn.initializers.normal(0.2), axes, shape)
    scale = modules.param(self, "scale", nn.initializers.constant(0.3), ("embed",), (dim,))
    # A sum of shifted products, since depthwise convolutions and their gradients are slow on CPUs.
    # Only the input of the convolution is masked, since the other layers do not mix frames. Masking
    # the sum below too would make the backward pass on CPUs take 2.5 times as long.
    taps = _neighbours(x * keep, self.kernel_size // 2, self.dilation)
    h: Array = sum((tap * kernel[i] for i, tap in enumerate(taps)), jnp.zeros_like(x))
    h = layer_norm("float32", name="norm")(h)
    h = dense(self.expansion * dim, ("embed", "mlp"), "float32", name="wide")(h)
    return x + scale * dense(dim, ("mlp", "embed"), "float32", name="narrow")(nn.gelu(h))


def _neighbours(
  x: Float[Array, "batch frames dim"], count: int, distance: int
) -> list[Float[Array, "batch _frames dim"]]:
  """Returns copies of `x`, padded with zeros and shifted by k * distance frames.

  The integer k takes the values from -count to count.
  """
  frames = x.shape[1]
  padded = jnp.pad(x, ((0, 0), (count * distance, count * distance), (0, 0)))
  starts = range(0, 2 * count * distance + 1, distance)
  return [padded[:, start : start + frames] for start in starts]


@dataclasses.dataclass(frozen=True)
class UnitTokenizerConfig(LogMelTokenizerConfig):
  """Shape of the tokenizer.

  Attributes:
    encoder: shape of the trained encoder.
    num_clusters: number of ids.
    chunk_steps: tokens per chunk of a long file, context excluded.
  """

  encoder: UnitEncoderConfig = UnitEncoderConfig()
  num_clusters: Vocabulary = 128
  chunk_steps: Steps = 512

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the tokenizer."""
    encoder = self.encoder
    return shapes.clustered(encoder.parameter_shapes(), encoder.dim, self.num_clusters)

  @property
  def receptive_field(self) -> Reach:
    """The numbers of earlier and later steps that the token of a step depends on."""
    return self.encoder.receptive_field


class UnitTokenizer(LogMelTokenizer):
  """A tokenizer that clusters `UnitEncoder` features, averaged over the frames of each token."""

  config: UnitTokenizerConfig

  @classmethod
  def unclustered(
    cls, encoder: UnitEncoderConfig, params: Params, chunk_steps: int = 512
  ) -> "UnitTokenizer":
    """Returns a tokenizer with one cluster and no whitening.

    Args:
      encoder: shape of the encoder.
      params: parameters of the encoder.
      chunk_steps: tokens per chunk of a long file, context excluded.
    """
    centroids = np.zeros((1, encoder.dim), np.float32)
    return cls(UnitTokenizerConfig(encoder, 1, chunk_steps), unwhitened(params, centroids))

  def encode_chunks(
    self, inputs: Float[np.ndarray | Array, "batch padded"], ends: Int[np.ndarray | Array, "batch"]
  ) -> TokenizedFeatures:
    return _encode(self.config, self.params, inputs, ends)


def _encode_fn(
  config: UnitTokenizerConfig,
  params: Params,
  padded: Float[Array, "batch padded"],
  ends: Int[Array, "batch"],
) -> TokenizedFeatures:
  """Encodes chunks of waveform with their margins; masks frames that begin at `ends` or later."""
  encoder = config.encoder
  log_mel = normalised_log_mel(power_spectrum(padded, encoder.features), encoder.features)
  inside = jnp.arange(log_mel.shape[1]) < -(-ends[:, None] // encoder.features.hop_length)
  features = modules.apply(UnitEncoder(encoder), params["encoder"], log_mel, inside)
  return whitened(averaged_over_steps(features, inside, encoder.frames_per_step), params)


_encode = StoredProgram(_encode_fn, static_argnums=(0,))
