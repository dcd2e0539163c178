"""A causal codec whose layers all run at the frame rate, between two Fourier transforms.

The encoder reads the compressed complex spectrum of each frame. The decoder predicts a magnitude
and a phase for each frequency, and an inverse transform with overlapping windows computes the
samples. No layer runs at the sample rate, so the computation consists of few, large matrix
products.

Source: Vocos (arXiv 2306.00814) for the inverse transform as the last layer of a decoder, ConvNeXt
(arXiv 2201.03545) for the blocks; a compressed spectrum as input is common in speech enhancement.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, Key

from audiolm_jax.codec.causal import Streamed
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.core import products, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.ranges import Depth, SampleRate, Samples, Steps, Taps, Vocabulary, Width
from audiolm_jax.dsp.stft import stft

State = tuple[jax.Array, ...]

# A magnitude m is compressed to m**0.4, similar to perceived loudness; the floor keeps the gradient
# finite.
_COMPRESSION = 0.4
_FLOOR = 1e-4
# The largest logarithm of a magnitude that the decoder returns.
_MAX_LOG_MAGNITUDE = 6.0


@dataclasses.dataclass(frozen=True)
class FrameRateConfig:
  """Shape of the codec; the defaults are 6 kbit/s at 50 frames per second.

  Attributes:
    sample_rate: Hz.
    hop_length: samples per frame.
    encoder_window: samples that a frame of the encoder depends on, a multiple of the hop; the last
      ones are those of the frame.
    decoder_window: samples to which a frame of the decoder contributes, a multiple of the hop.
    lookahead_frames: number of later frames that contribute to the samples of a frame. The window
      of a frame begins this many frames before it.
    encoder_dim: width of the encoder's blocks.
    encoder_layers: number of the encoder's blocks.
    decoder_dim: width of the decoder's blocks.
    decoder_layers: number of the decoder's blocks.
    expansion: width inside a block as a multiple of the width of the block.
    kernel_size: frames that the convolution of a block depends on.
    latent_dim: dimension of the latents that are quantized.
    num_quantizers: residual levels.
    codebook_size: entries per level.

  Raises:
    ConfigError: a window is not a multiple of the hop, or the look-ahead exceeds the window.
  """

  sample_rate: SampleRate = 16_000
  hop_length: Samples = 320
  encoder_window: Samples = 640
  decoder_window: Samples = 1280
  lookahead_frames: Steps = 1
  encoder_dim: Width = 256
  encoder_layers: Depth = 4
  decoder_dim: Width = 384
  decoder_layers: Depth = 8
  expansion: Taps = 3
  kernel_size: Taps = 7
  latent_dim: Width = 64
  num_quantizers: Depth = 12
  codebook_size: Vocabulary = 1024

  def __post_init__(self) -> None:
    for name in ("encoder_window", "decoder_window"):
      if getattr(self, name) % self.hop_length:
        raise ConfigError(
          f"{name} {getattr(self, name)} is not a multiple of hop_length {self.hop_length}"
        )
    if not 0 <= self.lookahead_frames < self.overlap:
      raise ConfigError(
        f"lookahead_frames {self.lookahead_frames} is not in 0..{self.overlap - 1}, the frames of "
        "decoder_window less one"
      )

  @property
  def overlap(self) -> int:
    """Number of frames that the window of a decoder's frame spans."""
    return self.decoder_window // self.hop_length

  @property
  def spec(self) -> CodecSpec:
    """The numbers that describe the tokens."""
    return CodecSpec(self.sample_rate, self.hop_length, self.num_quantizers, self.codebook_size)

  @property
  def latency_samples(self) -> int:
    """Samples to read before the first one can be written: the frame and its look-ahead."""
    return (1 + self.lookahead_frames) * self.hop_length

  def init_params(
    self, keys: Key[Array, "2"], waveform: Float[Array, "batch samples"]
  ) -> dict[str, Any]:
    """Returns new parameters of encoder and decoder, one key each, with logical axes."""
    batch, frames = waveform.shape[0], waveform.shape[1] // self.hop_length
    latents = jnp.zeros((batch, frames, self.latent_dim))
    ends = jnp.full(batch, frames)
    encoder = Encoder(self).init(keys[0], waveform, encoder_state(self, batch))
    decoder = Decoder(self).init(keys[1], latents, ends, decoder_state(self, batch))
    return {"encoder": encoder["params"], "decoder": decoder["params"]}

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""
    spectrum, windows = 2 * (self.encoder_window // 2 + 1), 2 * (self.decoder_window // 2 + 1)
    latent = self.latent_dim
    return {
      "encoder": self._half_shapes(spectrum, self.encoder_dim, self.encoder_layers, latent),
      "decoder": self._half_shapes(latent, self.decoder_dim, self.decoder_layers, windows),
      "codebooks": (self.num_quantizers, self.codebook_size, latent),
    }

  def _half_shapes(self, inputs: int, dim: int, layers: int, outputs: int) -> shapes.Shapes:
    block = {
      "kernel": (self.kernel_size, dim),
      "bias": (dim,),
      "scale": (dim,),
      "norm": shapes.norm(dim),
      "wide": shapes.dense(dim, self.expansion * dim),
      "narrow": shapes.dense(self.expansion * dim, dim),
    }
    return {
      "input": shapes.dense(inputs, dim),
      **{f"block_{i}": block for i in range(layers)},
      "norm": shapes.norm(dim),
      "output": shapes.dense(dim, outputs),
    }

  def encode_latents(
    self, params: Mapping[str, Any], waveform: Float[Array, "batch samples"]
  ) -> Float[Array, "batch frames latent"]:
    """Returns the latents of whole clips of whole frames; `params` are the encoder's."""
    return Encoder(self).apply({"params": params}, waveform, encoder_state(self, len(waveform)))[0]

  def decode_latents(
    self, params: Mapping[str, Any], latents: Float[Array, "batch frames latent"]
  ) -> Float[Array, "batch samples"]:
    """Returns the waveforms of whole clips; `params` are the decoder's."""
    batch, frames, _ = latents.shape
    latents = jnp.pad(latents, ((0, 0), (0, self.lookahead_frames), (0, 0)))
    ends = jnp.full(batch, frames)
    state = decoder_state(self, batch)
    waveform, _ = Decoder(self).apply({"params": params}, latents, ends, state)
    return waveform[:, self.lookahead_frames * self.hop_length :]

  def encoder_flops(self, samples: int) -> float:
    """Returns the operations of the encoder's matrix products for a clip of whole frames."""
    frames, dim = samples // self.hop_length, self.encoder_dim
    ends = dim * (2 * (self.encoder_window // 2 + 1) + self.latent_dim)
    return 2.0 * frames * (ends + self.encoder_layers * 2 * self.expansion * dim**2)

  def decoder_flops(self, samples: int) -> float:
    """Returns the operations of the decoder's matrix products for a clip of whole frames."""
    frames, dim = samples // self.hop_length, self.decoder_dim
    ends = dim * (2 * (self.decoder_window // 2 + 1) + self.latent_dim)
    return 2.0 * frames * (ends + self.decoder_layers * 2 * self.expansion * dim**2)


def encoder_state(config: FrameRateConfig, batch: int) -> State:
  """Returns the initial state of `Encoder`, zeros: samples before a clip, inputs of blocks."""
  context = (batch, config.kernel_size - 1, config.encoder_dim)
  past = jnp.zeros((batch, config.encoder_window - config.hop_length))
  return (past, *(jnp.zeros(context) for _ in range(config.encoder_layers)))


def decoder_state(config: FrameRateConfig, batch: int) -> State:
  """Returns the initial state of `Decoder`, zeros: inputs of blocks, sums of later frames."""
  context = (batch, config.kernel_size - 1, config.decoder_dim)
  written = jnp.zeros((batch, config.overlap - 1, config.hop_length))
  return (*(jnp.zeros(context) for _ in range(config.decoder_layers)), written)


class Encoder(nn.Module):
  """Maps waveform to latents."""

  config: FrameRateConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], state: State
  ) -> tuple[Float[Array, "batch frames latent"], State]:
    c = self.config
    past, *contexts = state
    padded = jnp.concatenate([past, waveform], axis=1)
    x = Dense(c.encoder_dim, name="input")(_compressed_spectrum(padded, c))
    run = Streamed(contexts)
    for layer in range(c.encoder_layers):
      x = run(Block(c.kernel_size, c.expansion, name=f"block_{layer}"), x)
    latents = Dense(c.latent_dim, name="output")(LayerNorm(name="norm")(x))
    return latents, (padded[:, padded.shape[1] - past.shape[1] :], *run.state)


class Decoder(nn.Module):
  """Maps latents to waveform, `lookahead_frames` later: the first samples precede the clip."""

  config: FrameRateConfig

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, "batch frames latent"],
    ends: Int[Array, "batch"],
    state: State,
  ) -> tuple[Float[Array, "batch samples"], State]:
    """Returns samples and the next state; frames from a row's `ends` on contribute nothing."""
    c = self.config
    *contexts, written = state
    x = Dense(c.decoder_dim, name="input")(latents)
    run = Streamed(contexts)
    for layer in range(c.decoder_layers):
      x = run(Block(c.kernel_size, c.expansion, name=f"block_{layer}"), x)
    bins = c.decoder_window // 2 + 1
    head = Dense(2 * bins, scale=0.5, name="output")(LayerNorm(name="norm")(x))
    windows = _windows_of(head[..., :bins], head[..., bins:], c.decoder_window)
    inside = jnp.arange(latents.shape[1]) < ends[:, None]
    windows = jnp.where(inside[..., None], windows, 0.0)
    samples, written = _overlap_add(windows, written, c.hop_length)
    return samples, (*run.state, written)


class Block(nn.Module):
  """ConvNeXt block: depthwise causal convolution, norm, two pointwise layers, added to the input.

  State: the last `kernel_size - 1` inputs.
  """

  kernel_size: int
  expansion: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames dim"], state: Float[Array, "batch context dim"]
  ) -> tuple[Float[Array, "batch frames dim"], Float[Array, "batch context dim"]]:
    frames, dim = x.shape[1:]
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(nn.initializers.normal(0.2), ("kernel", "channels")),
      (self.kernel_size, dim),
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
  """A matrix product with bias; `scale` multiplies the standard deviation of the initial kernel."""

  features: int
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
    init = nn.initializers.variance_scaling(self.scale**2, "fan_in", "normal")
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(init, ("conv_in", "channels")),
      (x.shape[-1], self.features),
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
  return module.param(name, nn.with_logical_partitioning(init, ("channels",)), (size,))


def _hann(size: int) -> np.ndarray:
  return np.hanning(size + 1)[:-1].astype(np.float32)


def _compressed_spectrum(
  padded: Float[Array, "batch samples"], config: FrameRateConfig
) -> Float[Array, "batch frames features"]:
  """Returns real and imaginary parts of the spectra of frames, with compressed magnitudes."""
  window = config.encoder_window
  # A full-scale tone has a magnitude near 10.
  spectrum = stft(padded, window, config.hop_length) * (40.0 / window)
  magnitude = jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + _FLOOR**2)
  gain = magnitude ** (_COMPRESSION - 1)
  return jnp.concatenate([spectrum.real * gain, spectrum.imag * gain], axis=-1)


def _windows_of(
  log_magnitude: Float[Array, "batch frames bins"],
  phase: Float[Array, "batch frames bins"],
  window: int,
) -> Float[Array, "batch frames window"]:
  """Returns the windowed samples that each frame contributes."""
  magnitude = jnp.exp(jnp.minimum(log_magnitude - 1.0, _MAX_LOG_MAGNITUDE))
  spectrum = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
  return jnp.fft.irfft(spectrum, window, axis=-1) * _hann(window)


def _overlap_add(
  windows: Float[Array, "batch frames window"],
  written: Float[Array, "batch following hop"],
  hop: int,
) -> tuple[Float[Array, "batch samples"], Float[Array, "batch following hop"]]:
  """Adds the window of each frame to the samples of its frame and the following ones.

  Args:
    windows: `overlap` hops of samples per frame.
    written: sums of earlier frames in the first `overlap - 1` frames.
    hop: samples per frame.

  Returns:
    The complete samples of these frames, and their sums in the frames that follow.
  """
  batch, frames, window = windows.shape
  overlap = window // hop
  parts = windows.reshape(batch, frames, overlap, hop)
  total = jnp.pad(written, ((0, 0), (0, frames), (0, 0)))
  for i in range(overlap):
    total += jnp.pad(parts[:, :, i], ((0, 0), (i, overlap - 1 - i), (0, 0)))
  # The sum of Hann windows at a hop of a quarter of their length is 2.
  samples = total[:, :frames].reshape(batch, frames * hop) * (2.0 / overlap)
  return samples, total[:, frames:]
