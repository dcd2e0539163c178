"""A causal codec whose layers run at the frame rate, between two Fourier transforms.

The encoder reads a complex spectrum of each frame, with compressed magnitudes. The decoder predicts
a complex spectrum for each frame, and an inverse transform with overlapping windows computes the
samples. No layer runs at the sample rate, so the computation consists of few, large matrix
products. If `short_hop` is less than `hop_length`, each frame consists of several short frames. The
first blocks of the encoder and the last blocks of the decoder then run at the rate of short frames.

The encoder is causal. The samples of a frame depend on `lookahead_frames` later frames. With the
default `window_lead`, the decoder predicts a window from all frames that the window spans.

Source: Vocos (arXiv 2306.00814) for the inverse transform as the last layer of a decoder, ConvNeXt
(arXiv 2201.03545) for the blocks, APNet (arXiv 2305.07952) for a phase from two linear outputs; a
compressed spectrum as input is common in speech enhancement.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from audiolm_jax.chunking import Sizes
from audiolm_jax.codec.causal import State, Streamed
from audiolm_jax.codec.residual_codec import TrainableConfig
from audiolm_jax.core import modules, products, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.ranges import Depth, SampleRate, Samples, Steps, Taps, Vocabulary, Width
from audiolm_jax.dsp.stft import stft

# Magnitudes m are compressed to m**0.4, similar to perceived loudness. The floor keeps the gradient
# finite.
_COMPRESSION = 0.4
_FLOOR = 1e-4
# The largest natural logarithm of a scale in the decoder's spectra.
_MAX_LOG_SCALE = 6.0


@dataclasses.dataclass(frozen=True)
class FrameRateConfig(TrainableConfig):
  """Shape of the codec; the defaults give 6 kbit/s at 50 frames per second.

  Attributes:
    sample_rate: Hz.
    hop_length: samples per frame.
    short_hop: samples per short frame, a divisor of `hop_length`.
    encoder_window: samples in the spectrum of a short frame of the encoder, a multiple of the short
      hop; the window ends with the last sample of the short frame.
    decoder_window: samples in the window that the decoder predicts for a short frame, a multiple of
      the short hop.
    window_lead: number of short frames by which a decoder window begins before its short frame.
    lookahead_frames: number of later frames that contribute to the samples of a frame.
    encoder_short_dim: width of the encoder's blocks for short frames.
    encoder_short_layers: number of these blocks.
    encoder_dim: width of the encoder's blocks for whole frames.
    encoder_layers: number of these blocks.
    decoder_dim: width of the decoder's blocks for whole frames.
    decoder_layers: number of these blocks.
    decoder_short_dim: width of the decoder's blocks for short frames.
    decoder_short_layers: number of these blocks.
    expansion: width inside a block as a multiple of the width of the block.
    kernel_size: taps of the causal convolutions in the blocks.
    latent_dim: dimension of the latents that are quantized.
    num_quantizers: residual levels.
    codebook_size: entries per level.
    search_width: see `ResidualConfig`.

  Raises:
    ConfigError: a hop or window is not a multiple of the short hop, or `window_lead` is negative or
      longer than `lookahead_frames`.
  """

  sample_rate: SampleRate = 16_000
  hop_length: Samples = 320
  short_hop: Samples = 320
  encoder_window: Samples = 640
  decoder_window: Samples = 1280
  window_lead: Steps = 3
  lookahead_frames: Steps = 3
  encoder_short_dim: Width = 256
  encoder_short_layers: Depth = 1
  encoder_dim: Width = 256
  encoder_layers: Depth = 3
  decoder_dim: Width = 320
  decoder_layers: Depth = 7
  decoder_short_dim: Width = 320
  decoder_short_layers: Depth = 1
  expansion: Taps = 3
  kernel_size: Taps = 7
  latent_dim: Width = 64
  num_quantizers: Depth = 12
  codebook_size: Vocabulary = 1024
  search_width: Depth = 1
  # 5 s at 50 frames per second.
  chunk_sizes: ClassVar[Sizes] = Sizes.in_steps(250, 25)

  def __post_init__(self) -> None:
    for name in ("hop_length", "encoder_window", "decoder_window"):
      if getattr(self, name) % self.short_hop:
        raise ConfigError(
          f"{name} {getattr(self, name)} is not a multiple of short_hop {self.short_hop}"
        )
    if not 0 <= self.window_lead <= self.lookahead_frames * self.short_frames:
      raise ConfigError(
        f"window_lead {self.window_lead} is not in 0..{self.lookahead_frames * self.short_frames}, "
        "the short frames of lookahead_frames"
      )

  @property
  def short_frames(self) -> int:
    """Number of short frames in a frame."""
    return self.hop_length // self.short_hop

  @property
  def overlap(self) -> int:
    """Number of short frames that a decoder window spans."""
    return self.decoder_window // self.short_hop

  @property
  def delay(self) -> int:
    """Number of short frames from a short frame to the beginning of its window in the output.

    The number includes the delay of the output by `lookahead_frames`.
    """
    return self.lookahead_frames * self.short_frames - self.window_lead

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""
    c, latent = self, self.latent_dim
    spectrum, head = 2 * (c.encoder_window // 2 + 1), 3 * (c.decoder_window // 2 + 1)
    encoder = {
      "input": shapes.dense(spectrum, c.encoder_short_dim),
      **self._block_shapes("short_block", c.encoder_short_dim, c.encoder_short_layers),
      "merge": shapes.dense(c.short_frames * c.encoder_short_dim, c.encoder_dim),
      **self._block_shapes("block", c.encoder_dim, c.encoder_layers),
      "norm": shapes.norm(c.encoder_dim),
      "output": shapes.dense(c.encoder_dim, latent),
    }
    decoder = {
      "input": shapes.dense(latent, c.decoder_dim),
      **self._block_shapes("block", c.decoder_dim, c.decoder_layers),
      "split": shapes.dense(c.decoder_dim, c.short_frames * c.decoder_short_dim),
      **self._block_shapes("short_block", c.decoder_short_dim, c.decoder_short_layers),
      "norm": shapes.norm(c.decoder_short_dim),
      "output": shapes.dense(c.decoder_short_dim, head),
    }
    codebooks = (c.num_quantizers, c.codebook_size, latent)
    return {"encoder": encoder, "decoder": decoder, "codebooks": codebooks}

  def _block_shapes(self, name: str, dim: int, layers: int) -> shapes.Shapes:
    block = {
      "kernel": (self.kernel_size, dim),
      "bias": (dim,),
      "scale": (dim,),
      "norm": shapes.norm(dim),
      "wide": shapes.dense(dim, self.expansion * dim),
      "narrow": shapes.dense(self.expansion * dim, dim),
    }
    return {f"{name}_{i}": block for i in range(layers)}

  @property
  def encoder(self) -> "FrameRateEncoder":
    return FrameRateEncoder(self)

  @property
  def decoder(self) -> "FrameRateDecoder":
    return FrameRateDecoder(self)

  def encoder_state(self, batch: int) -> State:
    past = jnp.zeros((batch, self.encoder_window - self.short_hop))
    short = self._contexts(batch, self.encoder_short_dim, self.encoder_short_layers)
    return (past, *short, *self._contexts(batch, self.encoder_dim, self.encoder_layers))

  def decoder_state(self, batch: int) -> State:
    frame = self._contexts(batch, self.decoder_dim, self.decoder_layers)
    short = self._contexts(batch, self.decoder_short_dim, self.decoder_short_layers)
    written = jnp.zeros((batch, self.delay + self.overlap - 1, self.short_hop))
    return (*frame, *short, written)

  def _contexts(self, batch: int, dim: int, layers: int) -> list[jax.Array]:
    return [jnp.zeros((batch, self.kernel_size - 1, dim)) for _ in range(layers)]

  def encoder_flops(self, samples: int) -> float:
    """Returns the floating-point operations of the encoder's matrix products for one clip."""
    frames = samples // self.hop_length
    ends = 2 * (self.encoder_window // 2 + 1) * self.encoder_short_dim
    short = ends + self._block(self.encoder_short_dim, self.encoder_short_layers)
    merge = self.short_frames * self.encoder_short_dim * self.encoder_dim
    frame = merge + self._block(self.encoder_dim, self.encoder_layers)
    return 2.0 * frames * (self.short_frames * short + frame + self.encoder_dim * self.latent_dim)

  def decoder_flops(self, samples: int) -> float:
    """Returns the floating-point operations of the decoder's matrix products for one clip."""
    frames = samples // self.hop_length
    ends = 3 * (self.decoder_window // 2 + 1) * self.decoder_short_dim
    short = ends + self._block(self.decoder_short_dim, self.decoder_short_layers)
    split = self.short_frames * self.decoder_short_dim * self.decoder_dim
    frame = split + self._block(self.decoder_dim, self.decoder_layers)
    return 2.0 * frames * (self.short_frames * short + frame + self.decoder_dim * self.latent_dim)

  def _block(self, dim: int, layers: int) -> int:
    """Returns the number of multiplications per frame in the blocks of one width."""
    return layers * 2 * self.expansion * dim**2


class FrameRateEncoder(nn.Module):
  """Maps waveform to latents."""

  config: FrameRateConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch frames latent"], State]:
    del ends  # no frame depends on later samples
    c = self.config
    past, *contexts = state
    padded = jnp.concatenate([past, waveform], axis=1)
    run = Streamed(contexts)
    x = Dense(c.encoder_short_dim, name="input")(_compressed_spectrum(padded, c))
    for layer in range(c.encoder_short_layers):
      x = run(ConvNeXtBlock(c.kernel_size, c.expansion, name=f"short_block_{layer}"), x)
    x = x.reshape(len(x), -1, c.short_frames * c.encoder_short_dim)
    x = Dense(c.encoder_dim, name="merge")(x)
    for layer in range(c.encoder_layers):
      x = run(ConvNeXtBlock(c.kernel_size, c.expansion, name=f"block_{layer}"), x)
    latents = Dense(c.latent_dim, name="output")(LayerNorm(name="norm")(x))
    return latents, (padded[:, padded.shape[1] - past.shape[1] :], *run.state)


class FrameRateDecoder(nn.Module):
  """Maps latents to waveform with a delay of `lookahead_frames`.

  The first `lookahead_frames * hop_length` samples of the output precede the clip.
  """

  config: FrameRateConfig

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, "batch frames latent"],
    ends: Int[Array, "batch"],
    state: State,
  ) -> tuple[Float[Array, "batch samples"], State]:
    """Returns samples and the next state; frames after the end of a row do not contribute."""
    c = self.config
    *contexts, written = state
    run = Streamed(contexts)
    x = Dense(c.decoder_dim, name="input")(latents)
    for layer in range(c.decoder_layers):
      x = run(ConvNeXtBlock(c.kernel_size, c.expansion, name=f"block_{layer}"), x)
    x = Dense(c.short_frames * c.decoder_short_dim, name="split")(x)
    x = x.reshape(len(x), -1, c.decoder_short_dim)
    for layer in range(c.decoder_short_layers):
      x = run(ConvNeXtBlock(c.kernel_size, c.expansion, name=f"short_block_{layer}"), x)
    bins = c.decoder_window // 2 + 1
    head = Dense(3 * bins, scale=0.5, name="output")(LayerNorm(name="norm")(x))
    windows = _windows_of(head.reshape(*head.shape[:2], 3, bins), c.decoder_window)
    inside = jnp.arange(x.shape[1]) < c.short_frames * ends[:, None]
    windows = jnp.where(inside[..., None], windows, 0.0)
    samples, written = _overlap_add(windows, written, c.short_hop, c.delay)
    return samples, (*run.state, written)


class ConvNeXtBlock(nn.Module):
  """ConvNeXt block with a causal convolution.

  A depthwise convolution, a layer norm and two dense layers with a residual connection. State: the
  last `kernel_size - 1` inputs of the convolution.
  """

  kernel_size: int
  expansion: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames dim"], state: Float[Array, "batch context dim"]
  ) -> tuple[Float[Array, "batch frames dim"], Float[Array, "batch context dim"]]:
    frames, dim = x.shape[1:]
    kernel = modules.param(
      self, "kernel", nn.initializers.normal(0.2), ("kernel", "channels"), (self.kernel_size, dim)
    )
    bias = _vector(self, "bias", nn.initializers.zeros, dim)
    scale = _vector(self, "scale", nn.initializers.constant(0.2), dim)
    padded = jnp.concatenate([state, x], axis=1)
    # A sum of shifted products, since depthwise convolutions and their gradients are slow on CPUs.
    h = bias + sum(padded[:, tap : tap + frames] * kernel[tap] for tap in range(self.kernel_size))
    h = Dense(self.expansion * dim, name="wide")(LayerNorm(name="norm")(h))
    h = Dense(dim, name="narrow")(nn.gelu(h))
    return x + scale * h, padded[:, padded.shape[1] - state.shape[1] :]


class Dense(nn.Module):
  """A dense layer; `scale` multiplies the standard deviation of the initial kernel."""

  features: int
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
    init = nn.initializers.variance_scaling(self.scale**2, "fan_in", "normal")
    kernel = modules.param(
      self, "kernel", init, ("conv_in", "channels"), (x.shape[-1], self.features)
    )
    bias = _vector(self, "bias", nn.initializers.zeros, self.features)
    return products.matmul(x, kernel) + bias


class LayerNorm(nn.Module):
  """Normalizes the last axis to zero mean and unit variance; has a learned scale and bias."""

  @nn.compact
  def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    scale = _vector(self, "scale", nn.initializers.ones, x.shape[-1])
    bias = _vector(self, "bias", nn.initializers.zeros, x.shape[-1])
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(variance + 1e-5) * scale + bias


def _vector(module: nn.Module, name: str, init: nn.initializers.Initializer, size: int) -> Array:
  return modules.param(module, name, init, ("channels",), (size,))


def _hann(size: int) -> np.ndarray:
  return np.hanning(size + 1)[:-1].astype(np.float32)


def _compressed_spectrum(
  padded: Float[Array, "batch samples"], config: FrameRateConfig
) -> Float[Array, "batch frames features"]:
  """Returns the real, then the imaginary parts of the spectra, with compressed magnitudes.

  Args:
    padded: samples of whole short frames, after the `encoder_window - short_hop` previous samples.
    config: hop and window of the spectra.

  Returns:
    One spectrum per short frame, `2 * (encoder_window // 2 + 1)` features.
  """
  window = config.encoder_window
  # A full-scale tone has a magnitude near 10.
  spectrum = stft(padded, window, config.short_hop) * (40.0 / window)
  magnitude = jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + _FLOOR**2)
  gain = magnitude ** (_COMPRESSION - 1)
  return jnp.concatenate([spectrum.real * gain, spectrum.imag * gain], axis=-1)


def _windows_of(
  head: Float[Array, "batch frames 3 bins"], window: int
) -> Float[Array, "batch frames window"]:
  """Returns the windowed samples of each frame.

  Args:
    head: for each bin, 1 plus the logarithm of a scale, and the real and the imaginary part of the
      spectrum before the multiplication by the scale.
    window: number of samples in a window.
  """
  scale = jnp.exp(jnp.minimum(head[:, :, 0] - 1.0, _MAX_LOG_SCALE))
  spectrum = jax.lax.complex(scale * head[:, :, 1], scale * head[:, :, 2])
  return jnp.fft.irfft(spectrum, window, axis=-1) * _hann(window)


def _overlap_add(
  windows: Float[Array, "batch frames window"],
  written: Float[Array, "batch following hop"],
  hop: int,
  delay: int,
) -> tuple[Float[Array, "batch samples"], Float[Array, "batch following hop"]]:
  """Adds the window of each frame to the samples of the frames that it spans.

  Args:
    windows: windowed samples of each frame; a window spans `overlap = window // hop` frames.
    written: incomplete sums of earlier windows in the first `delay + overlap - 1` frames.
    hop: samples per frame.
    delay: frames from a frame to the first frame of its window.

  Returns:
    The complete samples of as many frames as `windows` has, and the incomplete sums of the next
    `delay + overlap - 1` frames.
  """
  batch, frames, window = windows.shape
  overlap = window // hop
  parts = windows.reshape(batch, frames, overlap, hop)
  total = jnp.pad(written, ((0, 0), (0, frames), (0, 0)))
  for i in range(overlap):
    total += jnp.pad(parts[:, :, i], ((0, 0), (delay + i, overlap - 1 - i), (0, 0)))
  # Hann windows at a hop of window / overlap add up to overlap / 2.
  samples = total[:, :frames].reshape(batch, frames * hop) * (2.0 / overlap)
  return samples, total[:, frames:]
