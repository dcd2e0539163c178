"""A convolutional classifier of short pieces of sound: whose voice it is, or whether it is real.

Source: AudioLM, which uses one such network for both and does not give its shape.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from audiolm_jax.codec import convolution
from audiolm_jax.core import products
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.features import LogMelConfig, log_mel


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
  """Defaults: 3.5 M parameters.

  Attributes:
    features: the log-mel front end.
    channels: width of each block; between two blocks, time and frequency are halved.
    groups: in which channels are normalised together.
    num_classes: how many there are to choose from.
    dtype: of the computation; parameters are float32.
  """

  features: LogMelConfig = LogMelConfig(num_mels=64)
  channels: tuple[int, ...] = (64, 128, 256, 256, 512, 512)
  groups: int = 8
  num_classes: int = 2
  dtype: str = "float32"

  def __post_init__(self) -> None:
    if not self.channels or any(width % self.groups for width in self.channels):
      raise ConfigError(
        f"classifier channels {self.channels} must be multiples of groups {self.groups}"
      )
    if self.features.num_mels % 2 ** (len(self.channels) - 1):
      raise ConfigError(
        f"num_mels {self.features.num_mels} cannot be halved {len(self.channels) - 1} times"
      )

  def forward_flops(self, samples: int) -> float:
    """Floating-point operations of the convolutions on one piece, and of the front end."""
    frames = 4 * -(-samples // (4 * self.features.hop_length))
    total = frames * self.features.flops_per_frame
    mels, inputs = self.features.num_mels, 1
    for width in self.channels:
      total += 2.0 * frames * mels * 3 * (inputs * width + width * width)
      frames, mels, inputs = frames // 2, mels // 2, width
    return total + 2.0 * inputs * self.num_classes


def tiny_config() -> ClassifierConfig:
  """0.22 M parameters: minutes of training on two CPU cores."""
  return ClassifierConfig(channels=(16, 32, 64, 64, 128, 128))


class Classifier(nn.Module):
  """Blocks of a convolution over time and one over frequency, then the mean over both.

  Groups of channels are normalised within a piece, not over a batch: a piece is judged alike in any
  company.
  """

  config: ClassifierConfig

  @nn.compact
  def __call__(self, waveform: Float[Array, "batch samples"]) -> Float[Array, "batch classes"]:
    """Logits of pieces of sound, which last a tenth of a second or more.

    Args:
      waveform: in [-1, 1] at `config.features.sample_rate` Hz.
    """
    c = self.config
    x = log_mel(waveform, c.features)[..., None].astype(c.dtype)
    inputs = 1
    for block, width in enumerate(c.channels):
      if block:
        x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
      for axis, kernel in (("time", (3, 1)), ("frequency", (1, 3))):
        x = nn.Conv(
          width,
          kernel,
          dtype=c.dtype,
          use_bias=False,
          kernel_init=nn.with_logical_partitioning(
            nn.initializers.he_normal(), (None, None, "conv_in", "channels")
          ),
          conv_general_dilated=_convolve,
          name=f"{axis}_{block}",
        )(x)
        x = nn.relu(self._normalised(x, f"{axis}_norm_{block}"))
      inputs = width
    pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    head = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("conv_in", None))
    return nn.Dense(c.num_classes, kernel_init=head, name="head")(pooled.reshape(-1, inputs))

  def _normalised(self, x: Array, name: str) -> Array:
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("channels",))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("channels",))
    return nn.GroupNorm(
      self.config.groups, dtype=x.dtype, scale_init=ones, bias_init=zeros, name=name
    )(x)


def _convolve(
  x: Array, kernel: Array, strides: Sequence[int], padding: str, **options: Any
) -> Array:
  """`lax.conv_general_dilated`; a matrix product where training rounds its operands."""
  if not products.rounds(x, kernel):
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)
  edges = lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
  padded = jnp.pad(x, ((0, 0), *edges, (0, 0)))
  return convolution.convolve(padded, kernel, strides)
