"""SoundStream's causal encoder and decoder; a stream gives the same results as the whole clip.

Source: SoundStream, section III-A and III-B.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from audiolm_jax.chunking import Sizes
from audiolm_jax.codec.causal import (
  CausalConv,
  ResidualUnit,
  State,
  Streamed,
  StridedConv,
  TransposedConv,
  elu,
)
from audiolm_jax.codec.residual_codec import TrainableConfig
from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.ranges import Depth, SampleRate, Taps, Vocabulary, Width


@dataclasses.dataclass(frozen=True)
class SoundStreamConfig(TrainableConfig):
  """Shape of a SoundStream; the defaults are those of AudioLM's speech codec (6 kbit/s).

  Attributes:
    sample_rate: Hz.
    encoder_channels: channels of the encoder's first layer; each block doubles the channels.
    decoder_channels: input channels of the decoder's last layer.
    strides: down-sampling factors of the encoder's blocks; their product is the hop length.
    dilations: dilations of the residual units in every block.
    kernel_size: kernel size of the dilated convolutions, of the first convolution of the encoder
      and of the decoder, and of the last convolution of the decoder.
    latent_dim: dimension of the latents that are quantized.
    num_quantizers: residual levels.
    codebook_size: entries per level.
    search_width: see `ResidualConfig`.
  """

  sample_rate: SampleRate = 16_000
  encoder_channels: Width = 32
  decoder_channels: Width = 32
  strides: tuple[Taps, ...] = (2, 4, 5, 8)
  dilations: tuple[Taps, ...] = (1, 3, 9)
  kernel_size: Taps = 7
  latent_dim: Width = 512
  num_quantizers: Depth = 12
  codebook_size: Vocabulary = 1024
  search_width: Depth = 1
  # Chunks of 5 s at 50 frames per second; the end of a clip is cut into chunks of 1 s.
  chunk_sizes: ClassVar[Sizes] = Sizes.of_two(250, 50)

  @property
  def hop_length(self) -> int:
    """Samples per frame."""
    return int(np.prod(self.strides))

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""
    encoder, decoder = {}, {}
    outer, inner = self.encoder_channels, self.decoder_channels * 2 ** len(self.strides)
    encoder["input"] = shapes.convolution(self.kernel_size, 1, outer)
    decoder["input"] = shapes.convolution(self.kernel_size, self.latent_dim, inner)
    for i, stride in enumerate(self.strides):
      encoder |= self._unit_shapes(i, outer)
      encoder[f"block_{i}_down"] = shapes.strided(stride, outer, 2 * outer)
      outer *= 2
    for i, stride in enumerate(reversed(self.strides)):
      decoder[f"block_{i}_up"] = shapes.transposed(stride, inner, inner // 2)
      inner //= 2
      decoder |= self._unit_shapes(i, inner)
    encoder["output"] = shapes.convolution(3, outer, self.latent_dim)
    decoder["output"] = shapes.convolution(self.kernel_size, inner, 1)
    codebooks = (self.num_quantizers, self.codebook_size, self.latent_dim)
    return {"encoder": encoder, "decoder": decoder, "codebooks": codebooks}

  def _unit_shapes(self, block: int, channels: int) -> shapes.Shapes:
    unit = {
      "dilated": shapes.convolution(self.kernel_size, channels, channels),
      "pointwise": shapes.convolution(1, channels, channels),
    }
    return {f"block_{block}_unit_{j}": unit for j in range(len(self.dilations))}

  @property
  def encoder(self) -> "SoundStreamEncoder":
    return SoundStreamEncoder(self)

  @property
  def decoder(self) -> "SoundStreamDecoder":
    return SoundStreamDecoder(self)

  def encoder_state(self, batch: int) -> State:
    channels = self.encoder_channels
    shapes = [(self.kernel_size - 1, 1)]
    for stride in self.strides:
      shapes += [*self._unit_contexts(channels), (stride, channels)]
      channels *= 2
    shapes += [(2, channels)]
    return tuple(jnp.zeros((batch, *shape)) for shape in shapes)

  def decoder_state(self, batch: int) -> State:
    channels = self.decoder_channels * 2 ** len(self.strides)
    shapes = [(self.kernel_size - 1, self.latent_dim)]
    for stride in reversed(self.strides):
      channels //= 2
      shapes += [(stride, channels), *self._unit_contexts(channels)]
    shapes += [(self.kernel_size - 1, channels)]
    return tuple(jnp.zeros((batch, *shape)) for shape in shapes)

  def _unit_contexts(self, channels: int) -> list[tuple[int, int]]:
    return [((self.kernel_size - 1) * dilation, channels) for dilation in self.dilations]

  def encoder_flops(self, samples: int) -> float:
    """Returns the floating-point operations of the encoder for a clip of whole frames."""
    channels, time = self.encoder_channels, samples
    products = time * self.kernel_size * channels
    for stride in self.strides:
      products += len(self.dilations) * time * (self.kernel_size + 1) * channels**2
      time //= stride
      products += time * 2 * stride * channels * 2 * channels
      channels *= 2
    return 2.0 * (products + time * 3 * channels * self.latent_dim)

  def decoder_flops(self, samples: int) -> float:
    """Returns the floating-point operations of the decoder for a clip of whole frames."""
    channels = self.decoder_channels * 2 ** len(self.strides)
    time = samples // self.hop_length
    products = time * self.kernel_size * self.latent_dim * channels
    for stride in reversed(self.strides):
      products += time * channels * 2 * stride * channels // 2
      channels //= 2
      time *= stride
      products += len(self.dilations) * time * (self.kernel_size + 1) * channels**2
    return 2.0 * (products + time * self.kernel_size * channels)


class SoundStreamEncoder(nn.Module):
  """Maps waveform to latents: convolution, one block per stride, convolution of kernel size 3."""

  config: SoundStreamConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch frames latent"], State]:
    del ends  # no frame depends on later samples
    c = self.config
    run = Streamed(state)
    channels = c.encoder_channels
    x = run(CausalConv(channels, c.kernel_size, name="input"), waveform[..., None])
    for i, stride in enumerate(c.strides):
      for j, dilation in enumerate(c.dilations):
        x = run(ResidualUnit(dilation, c.kernel_size, name=f"block_{i}_unit_{j}"), x)
      channels *= 2
      x = run(StridedConv(channels, stride, name=f"block_{i}_down"), elu(x))
    x = run(CausalConv(c.latent_dim, 3, name="output"), elu(x))
    return x, run.state


class SoundStreamDecoder(nn.Module):
  """Maps latents to waveform: convolution, one block per stride in reverse order, convolution."""

  config: SoundStreamConfig

  @nn.compact
  def __call__(
    self, latents: Float[Array, "batch frames latent"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch samples"], State]:
    del ends  # no sample depends on later latents
    c = self.config
    run = Streamed(state)
    channels = c.decoder_channels * 2 ** len(c.strides)
    x = run(CausalConv(channels, c.kernel_size, name="input"), latents)
    for i, stride in enumerate(reversed(c.strides)):
      channels //= 2
      x = run(TransposedConv(channels, stride, name=f"block_{i}_up"), elu(x))
      for j, dilation in enumerate(c.dilations):
        x = run(ResidualUnit(dilation, c.kernel_size, name=f"block_{i}_unit_{j}"), x)
    x = run(CausalConv(1, c.kernel_size, name="output"), elu(x))
    return x[..., 0], run.state
