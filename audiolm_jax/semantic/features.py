"""The log-mel front end, in which a frame depends only on the samples in its window."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.ranges import Epsilon, Hertz, SampleRate, Samples, Scale, Share, Taps
from audiolm_jax.dsp.mel import hertz_to_mel, mel_filterbank, mel_to_hertz


@dataclasses.dataclass(frozen=True)
class LogMelConfig:
  """Settings of the log-mel features; lengths are in samples and frequencies in Hz.

  `preemphasis` is the coefficient of a first-order high-pass filter. `floor` is added to the power
  of each mel band. Power is relative to a full-scale sine, so a `floor` of 1e-8 is -80 dB. `mean`
  and `scale` are constants for which speech at usual levels has about zero mean and unit variance.
  Features do not depend on statistics of the utterance, so an utterance can be processed in chunks.

  Raises:
    ConfigError: the hop is longer than the window; the window is longer than the FFT; window minus
      hop is odd; or the mel range is empty or outside of 0 Hz to half the sample rate.
  """

  sample_rate: SampleRate = 16_000
  window_length: Samples = 400
  hop_length: Samples = 160
  fft_length: Samples = 512
  num_mels: Taps = 80
  min_frequency: Hertz = 40.0
  max_frequency: Hertz = 7_600.0
  preemphasis: Share = 0.97
  floor: Epsilon = 1e-8
  mean: float = -15.0
  scale: Scale = 3.0

  def __post_init__(self) -> None:
    if not self.hop_length <= self.window_length <= self.fft_length:
      raise ConfigError(
        f"hop {self.hop_length} <= window {self.window_length} <= FFT {self.fft_length} must hold"
      )
    if (self.window_length - self.hop_length) % 2:
      raise ConfigError(
        f"window {self.window_length} minus hop {self.hop_length} must be even, to centre a window"
      )
    if not 0 <= self.min_frequency < self.max_frequency <= self.sample_rate / 2:
      raise ConfigError(
        f"mel range {self.min_frequency}..{self.max_frequency} Hz must lie within 0.."
        f"{self.sample_rate / 2} Hz"
      )

  @property
  def margin(self) -> int:
    """Number of samples by which the window of a frame extends past its hop on each side."""
    return (self.window_length - self.hop_length) // 2

  @property
  def num_bins(self) -> int:
    """Number of bins of the power spectrum."""
    return self.fft_length // 2 + 1

  @property
  def flops_per_frame(self) -> float:
    """Floating-point operations per frame, for the spectrum (a matrix product) and mel bands."""
    return 2.0 * self.num_bins * (2 * self.window_length + self.num_mels)


def pad_waveform(
  waveform: Float[Array, "batch samples"], config: LogMelConfig, multiple: int = 4
) -> Float[Array, "batch padded"]:
  """Pads a waveform to a multiple of `multiple` frames, plus `config.margin` zeros on each side."""
  unit = multiple * config.hop_length
  missing = -waveform.shape[1] % unit
  return jnp.pad(waveform, ((0, 0), (config.margin, missing + config.margin)))


def power_spectrum(
  padded: Float[Array, "batch padded"], config: LogMelConfig
) -> Float[Array, "batch frames bins"]:
  """Returns windowed power spectra of a waveform with margins.

  Args:
    padded: `margin` samples, then a whole number of hops, then `margin` samples.
    config: settings of the features.

  Returns:
    One spectrum per hop. A full-scale sine at the frequency of a bin has power 1 in this bin.
  """
  hop, window = config.hop_length, config.window_length
  num_frames = (padded.shape[1] - 2 * config.margin) // hop
  # Frames are concatenated hops, because a gather is slow on every backend, especially in the
  # backward pass.
  num_parts = -(-window // hop)
  padded = jnp.pad(
    padded, ((0, 0), (0, max(0, (num_frames + num_parts - 1) * hop - padded.shape[1])))
  )
  hops = padded[:, : (num_frames + num_parts - 1) * hop].reshape(padded.shape[0], -1, hop)
  frames = jnp.concatenate([hops[:, i : i + num_frames] for i in range(num_parts)], axis=-1)
  basis = jnp.asarray(_dft_basis(config))
  spectrum = jnp.matmul(frames[..., :window], basis, precision=jax.lax.Precision.HIGHEST)
  real, imaginary = jnp.split(spectrum, 2, axis=-1)
  return real**2 + imaginary**2


def normalised_log_mel(
  power: Float[Array, "batch frames bins"], config: LogMelConfig
) -> Float[Array, "batch frames mels"]:
  """Returns natural logarithms of mel bands, normalised by `config.mean` and `config.scale`."""
  mel = jnp.matmul(power, jnp.asarray(mel_filters(config)), precision=jax.lax.Precision.HIGHEST)
  return (jnp.log(mel + config.floor) - config.mean) / config.scale


def log_mel(
  waveform: Float[Array, "batch samples"], config: LogMelConfig
) -> Float[Array, "batch frames mels"]:
  """Returns normalised log-mel features of a waveform, padded to a multiple of four frames.

  Args:
    waveform: samples in [-1, 1] at `config.sample_rate` Hz.
    config: settings of the features.

  Returns:
    `4 * ceil(samples / (4 * hop))` frames; frame i is centred on the samples of hop i.
  """
  return normalised_log_mel(power_spectrum(pad_waveform(waveform, config), config), config)


@functools.lru_cache
def _dft_basis(config: LogMelConfig) -> np.ndarray:
  """Returns a matrix [window, 2 * bins] of cosines, then sines, multiplied by the window."""
  n = np.arange(config.window_length)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * (n + 0.5) / config.window_length)
  window *= 2.0 / window.sum()
  phase = 2 * np.pi * np.outer(n, np.arange(config.num_bins)) / config.fft_length
  basis = window[:, None] * np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
  return basis.astype(np.float32)


@functools.lru_cache
def mel_filters(config: LogMelConfig) -> Float[np.ndarray, "bins mels"]:
  """Returns mel filters of height 1, multiplied by the power response of the pre-emphasis."""
  filters = mel_filterbank(
    config.num_bins,
    config.num_mels,
    config.sample_rate,
    min_frequency=config.min_frequency,
    max_frequency=config.max_frequency,
  )
  frequencies = np.arange(config.num_bins) * config.sample_rate / config.fft_length
  ends = np.linspace(
    hertz_to_mel(config.min_frequency), hertz_to_mel(config.max_frequency), config.num_mels + 2
  )
  # A filter that is narrower than a bin may contain no bin. Such a filter gets the nearest bin.
  for band in np.flatnonzero(filters.sum(0) == 0.0):
    filters[np.abs(frequencies - mel_to_hertz(ends[band + 1])).argmin(), band] = 1.0
  phase = 2 * np.pi * frequencies / config.sample_rate
  emphasis = np.abs(1.0 - config.preemphasis * np.exp(-1j * phase)) ** 2
  return (filters * emphasis[:, None]).astype(np.float32)
