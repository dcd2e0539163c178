"""The discriminators of codec training, for waveforms at several scales and for complex STFTs.

Source: SoundStream, section III-D.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from audiolm_jax.codec.convolution import convolve
from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.dsp.stft import stft


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """Sizes of the discriminators; the defaults are those of SoundStream.

  Attributes:
    wave_scales: down-sampling factor of each waveform discriminator; empty for no waveform
      discriminators.
    wave_channels: channels of the first layer of a waveform discriminator; each strided layer
      multiplies the channels by four, up to `wave_max_channels`.
    wave_max_channels: maximum number of channels of a strided layer.
    wave_group_channels: input channels per group of the strided layers.
    stft_windows: window length in samples of each STFT discriminator; the hop is a quarter of the
      window.
    stft_channels: channels of the first layer of an STFT discriminator.
  """

  wave_scales: tuple[int, ...] = (1, 2, 4)
  wave_channels: int = 16
  wave_max_channels: int = 1024
  wave_group_channels: int = 4
  stft_windows: tuple[int, ...] = (1024,)
  stft_channels: int = 32

  def forward_flops(self, samples: int) -> float:
    """Returns the floating-point operations of all convolutions for one clip."""
    waves = sum(self._wave_products(-(-samples // scale)) for scale in self.wave_scales)
    return 2.0 * (waves + sum(self._stft_products(samples, w) for w in self.stft_windows))

  def _wave_products(self, time: int) -> int:
    channels = self.wave_channels
    products = time * 15 * channels
    for _ in range(_WAVE_LAYERS):
      per_group = channels // max(1, channels // self.wave_group_channels)
      channels = min(4 * channels, self.wave_max_channels)
      time = -(-time // 4)
      products += time * 41 * per_group * channels
    return products + time * channels * (5 * channels + 3)

  def _stft_products(self, samples: int, window: int) -> int:
    frames, bins = samples // (window // 4) - 3, window // 2
    channels = self.stft_channels
    products = frames * bins * 7 * 7 * 2 * channels
    for multiple, (in_time, in_frequency) in _STFT_UNITS:
      features = multiple * self.stft_channels
      products += frames * bins * 3 * 3 * channels**2
      frames, bins = -(-frames // in_time), -(-bins // in_frequency)
      kernel = (in_time + 2) * (in_frequency + 2)
      products += frames * bins * (kernel + 1) * channels * features  # + 1 for the shortcut
      channels = features
    return products + frames * bins * channels


# Number of strided layers of a waveform discriminator, and the width multiples and strides of the
# residual units of an STFT discriminator.
_WAVE_LAYERS = 4
_STFT_UNITS = (
  (2, (1, 2)),
  (4, (2, 2)),
  (4, (1, 2)),
  (8, (2, 2)),
  (8, (1, 2)),
  (8, (2, 2)),
)

# Logits and the outputs of the internal layers.
Output = tuple[Float[Array, "..."], list[Float[Array, "..."]]]

_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def _activation(x: Array) -> Array:
  return jax.nn.leaky_relu(x, 0.2)


def _same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
  """Returns the numbers of zeros before and after the inputs for ceil(size / stride) outputs."""
  missing = max(0, (-(-size // stride) - 1) * stride + kernel_size - size)
  return missing // 2, missing - missing // 2


class _Conv(nn.Module):
  """A convolution over the time axis of waveforms, or the time and frequency axes of spectrograms.

  The axes of the parameters have logical names.
  """

  features: int
  kernel_size: tuple[int, ...]
  strides: tuple[int, ...] | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    # A logical axis name may occur only once per parameter; kernels are never sharded.
    axes = (*("kernel", None)[: len(self.kernel_size)], "conv_in", "channels")
    kernel = modules.param(
      self, "kernel", _kernel_init, axes, (*self.kernel_size, x.shape[-1], self.features)
    )
    bias = modules.param(self, "bias", nn.initializers.zeros, ("channels",), (self.features,))
    strides = self.strides or (1,) * len(self.kernel_size)
    padding = [
      _same_padding(*sizes) for sizes in zip(x.shape[1:-1], self.kernel_size, strides, strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return convolve(x, kernel, strides) + bias


class _GroupedConv(nn.Module):
  """A strided grouped convolution.

  It is computed as one matrix product per group over blocks of `stride` samples, because the
  gradient of XLA's grouped convolution is slow. On CPUs, that gradient takes ten to forty times as
  long as the gradient of the matrix products.
  """

  features: int
  kernel_size: int
  stride: int
  groups: int

  @nn.compact
  def __call__(self, x: Float[Array, "batch time channels"]) -> Float[Array, "batch blocks out"]:
    batch, time, channels = x.shape
    width = channels // self.groups
    kernel = modules.param(
      self,
      "kernel",
      _kernel_init,
      ("kernel", "conv_in", "channels"),
      (self.kernel_size, width, self.features),
    )
    bias = modules.param(self, "bias", nn.initializers.zeros, ("channels",), (self.features,))
    outputs, seen = -(-time // self.stride), -(-self.kernel_size // self.stride)
    blocks, taps = outputs + seen - 1, seen * self.stride
    before, _ = _same_padding(time, self.kernel_size, self.stride)
    x = jnp.pad(x, ((0, 0), (before, blocks * self.stride - time - before), (0, 0)))
    x = x.reshape(batch, blocks, self.stride, self.groups, width).transpose(3, 0, 1, 2, 4)
    x = x.reshape(self.groups, batch, blocks, self.stride * width)
    x = jnp.concatenate([x[:, :, i : i + outputs] for i in range(seen)], axis=-1)
    kernel = jnp.pad(kernel, ((0, taps - self.kernel_size), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps * width, self.groups, -1)
    y = jnp.einsum("gbti,igo->btgo", x, kernel)
    return y.reshape(batch, outputs, self.features) + bias


class WaveDiscriminator(nn.Module):
  """A waveform discriminator: a convolution, four strided grouped convolutions, two convolutions.

  Each strided layer has stride 4. The result has one logit per `256 * scale` samples.
  """

  config: DiscriminatorConfig
  scale: int

  @nn.compact
  def __call__(self, waveform: Float[Array, "batch samples"]) -> Output:
    c = self.config
    x = waveform[..., None]
    if self.scale > 1:
      x = nn.avg_pool(x, (2 * self.scale,), (self.scale,), "SAME")
    features = []
    channels = c.wave_channels
    x = _activation(_Conv(channels, (15,), name="input")(x))
    features.append(x)
    for i in range(_WAVE_LAYERS):
      groups = max(1, channels // c.wave_group_channels)
      channels = min(4 * channels, c.wave_max_channels)
      x = _activation(_GroupedConv(channels, 41, 4, groups, name=f"down_{i}")(x))
      features.append(x)
    x = _activation(_Conv(channels, (5,), name="mix")(x))
    features.append(x)
    return _Conv(1, (3,), name="logits")(x)[..., 0], features


class _SpectrogramUnit(nn.Module):
  """A residual unit that down-samples the time and frequency axes by `strides`."""

  features: int
  strides: tuple[int, int]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = (self.strides[0] + 2, self.strides[1] + 2)
    h = _Conv(x.shape[-1], (3, 3), name="first")(_activation(x))
    h = _Conv(self.features, kernel, self.strides, name="second")(_activation(h))
    return h + _Conv(self.features, (1, 1), self.strides, name="shortcut")(x)


class SpectrogramDiscriminator(nn.Module):
  """An STFT discriminator: a convolution, six residual units and a convolution.

  The input has two channels, the real and the imaginary part of the spectrogram. The result has one
  logit per eight frames.
  """

  config: DiscriminatorConfig
  window: int

  @nn.compact
  def __call__(self, waveform: Float[Array, "batch samples"]) -> Output:
    spectrum = stft(waveform, self.window, self.window // 4)[..., :-1] / self.window**0.5
    x = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
    width = self.config.stft_channels
    x = _Conv(width, (7, 7), name="input")(x)
    features = [x]
    for i, (multiple, strides) in enumerate(_STFT_UNITS):
      x = _SpectrogramUnit(multiple * width, strides, name=f"unit_{i}")(x)
      features.append(x)
    x = _activation(x)
    bins = x.shape[2]
    logits = _Conv(1, (1, bins), name="logits")(x)[:, :, (bins - 1) // 2, 0]
    return logits, features


class Discriminators(nn.Module):
  """All discriminators; returns the logits and the layer outputs of each discriminator."""

  config: DiscriminatorConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"]
  ) -> tuple[list[Float[Array, "..."]], list[list[Float[Array, "..."]]]]:
    outputs = [
      WaveDiscriminator(self.config, scale, name=f"wave_{scale}")(waveform)
      for scale in self.config.wave_scales
    ] + [
      SpectrogramDiscriminator(self.config, window, name=f"stft_{window}")(waveform)
      for window in self.config.stft_windows
    ]
    return [logits for logits, _ in outputs], [layers for _, layers in outputs]
