"""A convolutional classifier of short clips, for speakers or for synthetic audio.

Source: AudioLM, which uses one architecture for both tasks and does not state its sizes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from audiolm_jax.codec import convolution
from audiolm_jax.core import products, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.ranges import DType, Vocabulary, Width
from audiolm_jax.semantic.features import LogMelConfig, log_mel


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
  """Configuration of a classifier; the defaults have 3.5 M parameters.

  Attributes:
    features: settings of the log-mel features.
    channels: number of channels of each block. Max pooling between blocks halves the time and
      frequency axes.
    groups: number of groups of the group normalisation.
    num_classes: number of classes.
    dtype: type of the computation; parameters are float32.

  Raises:
    ConfigError: `channels` is empty, a number of channels is not a multiple of `groups`, or
      `features.num_mels` cannot be halved between all blocks.
  """

  features: LogMelConfig = LogMelConfig(num_mels=64)
  channels: tuple[Width, ...] = (64, 128, 256, 256, 512, 512)
  groups: Width = 8
  num_classes: Vocabulary = 2
  dtype: DType = "float32"

  def __post_init__(self) -> None:
    if not self.channels or any(width % self.groups for width in self.channels):
      raise ConfigError(
        f"classifier channels {self.channels} are not multiples of groups {self.groups}"
      )
    if self.features.num_mels % 2 ** (len(self.channels) - 1):
      raise ConfigError(
        f"num_mels {self.features.num_mels} cannot be halved {len(self.channels) - 1} times; "
        f"make it a multiple of {2 ** (len(self.channels) - 1)}"
      )

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of `Classifier`."""
    found, inputs = {}, 1
    for block, width in enumerate(self.channels):
      found[f"time_{block}"] = {"kernel": (3, 1, inputs, width)}
      found[f"frequency_{block}"] = {"kernel": (1, 3, width, width)}
      found |= {f"{axis}_norm_{block}": shapes.norm(width) for axis in ("time", "frequency")}
      inputs = width
    return found | {"head": shapes.dense(inputs, self.num_classes)}

  def forward_flops(self, samples: int) -> float:
    """Returns the approximate floating-point operations for one clip of `samples` samples."""
    frames = 4 * -(-samples // (4 * self.features.hop_length))
    total = frames * self.features.flops_per_frame
    mels, inputs = self.features.num_mels, 1
    for width in self.channels:
      total += 2.0 * frames * mels * 3 * (inputs * width + width * width)
      frames, mels, inputs = frames // 2, mels // 2, width
    return total + 2.0 * inputs * self.num_classes


def tiny_config() -> ClassifierConfig:
  """Returns a configuration of 0.22 M parameters, which trains in minutes on two CPU cores."""
  return ClassifierConfig(channels=(16, 32, 64, 64, 128, 128))


class Classifier(nn.Module):
  """Convolutional blocks, a mean over time and frequency, and a linear layer.

  Each block has a convolution over time and a convolution over frequency. Group normalisation
  computes statistics within a clip, so the logits of a clip do not depend on the rest of the batch.
  """

  config: ClassifierConfig

  @nn.compact
  def __call__(self, waveform: Float[Array, "batch samples"]) -> Float[Array, "batch classes"]:
    """Returns the logits of clips.

    Args:
      waveform: samples in [-1, 1] at `config.features.sample_rate` Hz, 0.1 s or longer.
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
  """Computes `lax.conv_general_dilated`, with matrix products if training rounds the operands."""
  if not products.rounds(x, kernel):
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)
  edges = lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
  padded = jnp.pad(x, ((0, 0), *edges, (0, 0)))
  return convolution.convolve(padded, kernel, strides)
