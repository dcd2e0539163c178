"""SoundStream's encoder and decoder: causal, strided, and equal offline and streamed.

Source: SoundStream, section III-A and III-B.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Key

from audiolm_jax.codec.causal import (
  CausalConv,
  ResidualUnit,
  Streamed,
  StridedConv,
  TransposedConv,
  elu,
)
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.core import modules, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Depth, SampleRate, Taps, Vocabulary, Width

State = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class SoundStreamConfig:
  """Shape of a SoundStream; the defaults are those of AudioLM's speech codec (6 kbit/s).

  Attributes:
    sample_rate: Hz.
    encoder_channels: channels of the encoder's first layer; each block doubles them.
    decoder_channels: input channels of the decoder's last layer.
    strides: down-sampling factors of the encoder's blocks; their product is the hop length.
    dilations: dilations of the residual units in every block.
    kernel_size: kernel size of the first, the last and the dilated convolutions.
    latent_dim: dimension of the latents that are quantized.
    num_quantizers: residual levels.
    codebook_size: entries per level.
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

  @property
  def hop_length(self) -> int:
    """Samples per frame."""
    return int(np.prod(self.strides))

  @property
  def spec(self) -> CodecSpec:
    """The numbers that describe the tokens."""
    return CodecSpec(self.sample_rate, self.hop_length, self.num_quantizers, self.codebook_size)

  @property
  def latency_samples(self) -> int:
    """Samples to read before the first one can be written: one frame, no look-ahead."""
    return self.hop_length

  def init_params(self, keys: Key[Array, "2"], waveform: Float[Array, "batch samples"]) -> Params:
    """Returns new parameters of encoder and decoder, one key each, with logical axes."""
    batch, frames = waveform.shape[0], -(-waveform.shape[1] // self.hop_length)
    latents = jnp.zeros((batch, frames, self.latent_dim))
    encoder = Encoder(self).init(keys[0], waveform, encoder_state(self, batch))
    decoder = Decoder(self).init(keys[1], latents, decoder_state(self, batch))
    return {"encoder": encoder["params"], "decoder": decoder["params"]}

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

  def encode_latents(
    self, params: Params, waveform: Float[Array, "batch samples"]
  ) -> Float[Array, "batch frames latent"]:
    """Returns the latents of whole clips of whole frames; `params` are the encoder's."""
    return modules.apply(Encoder(self), params, waveform, encoder_state(self, len(waveform)))[0]

  def decode_latents(
    self, params: Params, latents: Float[Array, "batch frames latent"]
  ) -> Float[Array, "batch samples"]:
    """Returns the waveforms of whole clips; `params` are the decoder's."""
    return modules.apply(Decoder(self), params, latents, decoder_state(self, len(latents)))[0]

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


def encoder_state(config: SoundStreamConfig, batch: int) -> State:
  """Returns the initial state of `Encoder`, zeros: silence before the first sample."""
  channels = config.encoder_channels
  shapes = [(config.kernel_size - 1, 1)]
  for stride in config.strides:
    shapes += [((config.kernel_size - 1) * d, channels) for d in config.dilations]
    shapes += [(stride, channels)]
    channels *= 2
  shapes += [(2, channels)]
  return tuple(jnp.zeros((batch, *shape)) for shape in shapes)


def decoder_state(config: SoundStreamConfig, batch: int) -> State:
  """Returns the initial state of `Decoder`, zeros."""
  channels = config.decoder_channels * 2 ** len(config.strides)
  shapes = [(config.kernel_size - 1, config.latent_dim)]
  for stride in reversed(config.strides):
    channels //= 2
    shapes += [(stride, channels)]
    shapes += [((config.kernel_size - 1) * d, channels) for d in config.dilations]
  shapes += [(config.kernel_size - 1, channels)]
  return tuple(jnp.zeros((batch, *shape)) for shape in shapes)


class Encoder(nn.Module):
  """Maps waveform to latents: convolution, one block per stride, convolution of kernel 3."""

  config: SoundStreamConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], state: State
  ) -> tuple[Float[Array, "batch frames latent"], State]:
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


class Decoder(nn.Module):
  """Maps latents to waveform with the layers of the encoder in reverse."""

  config: SoundStreamConfig

  @nn.compact
  def __call__(
    self, latents: Float[Array, "batch frames latent"], state: State
  ) -> tuple[Float[Array, "batch samples"], State]:
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
