"""Reconstruction and adversarial losses of the codec.

Source: SoundStream, section III-E.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from audiolm_jax.core.arrays import Array
from audiolm_jax.dsp.mel import mel_filterbank
from audiolm_jax.dsp.stft import magnitude, stft

_COMPRESSION = 0.4


@dataclasses.dataclass(frozen=True)
class SpectralLossConfig:
  """Settings of `spectral_loss`.

  Attributes:
    sample_rate: Hz.
    windows: window lengths in samples; the hop is a quarter of each window.
    num_mels: number of mel bands, but at most a quarter of the window length in samples.
    log_floor: constant that is added to magnitudes before the logarithm; magnitudes below this
      constant have little weight. A full-scale sine has a magnitude of 0.5 in its bin.
    linear_weight: weight of the relative difference of magnitudes, see `spectral_loss`; all windows
      then have equal weights. None for the weights of SoundStream.
  """

  sample_rate: int = 16_000
  windows: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
  num_mels: int = 64
  log_floor: float = 1e-5
  linear_weight: float | None = None


@dataclasses.dataclass(frozen=True)
class ComplexLossConfig:
  """Settings of `complex_spectral_loss`.

  Attributes:
    windows: window lengths in samples; the hop is a quarter of each window.
  """

  windows: tuple[int, ...] = (256, 512, 1024)


def mel_spectrograms(
  waveform: Float[Array, "batch samples"], config: SpectralLossConfig
) -> list[Float[Array, "batch _ _"]]:
  """Returns one mel magnitude spectrogram per window length."""
  result = []
  for window in config.windows:
    num_mels = min(config.num_mels, window // 4)
    taper_gain = 2.0 / window
    spectrum = magnitude(stft(waveform, window, window // 4)) * taper_gain
    result.append(spectrum @ _mel_filters(config.sample_rate, window, num_mels))
  return result


def spectral_loss(
  target: Float[Array, "batch samples"],
  generated: Float[Array, "batch samples"],
  config: SpectralLossConfig,
) -> Float[Array, ""]:
  """Returns the distance between the mel spectrograms of two waveforms, over all windows.

  If `linear_weight` is None, the loss of a window of s samples has two terms. The first term is 100
  times the mean absolute difference of the mel magnitudes. The second term is sqrt(s / 2) times the
  root mean square difference of the logarithms over bands, averaged over frames. The sum of all
  terms is divided by the sum of sqrt(s / 2) over windows. SoundStream takes sums instead of means;
  the factor 100 and the division keep the loss near 1.

  Otherwise, the loss is the mean over all windows of two terms: the mean absolute difference of the
  logarithms, and `linear_weight` times the mean absolute difference of the magnitudes divided by
  the mean magnitude of the target. Loud bins dominate the second term. Loud bins and short windows
  then have more weight than with None.
  """
  total = jnp.zeros(())
  weights = 0.0
  pairs = zip(
    config.windows,
    mel_spectrograms(target, config),
    mel_spectrograms(generated, config),
    strict=True,
  )
  for window, a, b in pairs:
    linear = jnp.mean(jnp.abs(a - b))
    difference = jnp.log(a + config.log_floor) - jnp.log(b + config.log_floor)
    if config.linear_weight is not None:
      relative = linear / (jnp.mean(a) + config.log_floor)
      total += jnp.mean(jnp.abs(difference)) + config.linear_weight * relative
      weights += 1.0
      continue
    logarithmic = jnp.mean(jnp.sqrt(jnp.mean(jnp.square(difference), axis=-1) + 1e-8))
    alpha = float(np.sqrt(window / 2))
    total += 100.0 * linear + alpha * logarithmic
    weights += alpha
  return total / weights


def complex_spectral_loss(
  target: Float[Array, "batch samples"],
  generated: Float[Array, "batch samples"],
  config: ComplexLossConfig,
) -> Float[Array, ""]:
  """Returns the distance between complex spectra whose magnitudes m are compressed to m**0.4.

  Unlike a distance between magnitudes, this distance depends on the phase. Unlike a distance
  between waveforms, it also gives weight to quiet bins. For each window, the mean distance is
  divided by the mean compressed magnitude of the target. The result is the mean over windows.
  """
  total = jnp.zeros(())
  for window in config.windows:
    # A full-scale sine has a magnitude of a quarter of the square root of the window length.
    a, b = (
      _compressed(stft(x, window, window // 4) / np.sqrt(window)) for x in (target, generated)
    )
    distance = jnp.sqrt(jnp.square(a.real - b.real) + jnp.square(a.imag - b.imag) + 1e-6)
    size = jnp.sqrt(jnp.square(a.real) + jnp.square(a.imag) + 1e-6)
    total += jnp.mean(distance) / jnp.mean(size)
  return total / len(config.windows)


def _compressed(spectrum: Array) -> Array:
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag) + 1e-6
  return spectrum * power ** ((_COMPRESSION - 1) / 2)


def hinge_discriminator_loss(
  real: list[Float[Array, "..."]], fake: list[Float[Array, "..."]]
) -> Float[Array, ""]:
  """Returns the hinge loss of the discriminators.

  The loss is averaged over the positions of each discriminator, then over the discriminators.

  Args:
    real: logits of each discriminator for real audio.
    fake: logits of each discriminator for generated audio.
  """
  terms = [
    jnp.mean(jax.nn.relu(1.0 - r)) + jnp.mean(jax.nn.relu(1.0 + f))
    for r, f in zip(real, fake, strict=True)
  ]
  return sum(terms, jnp.zeros(())) / len(terms)


def hinge_generator_loss(fake: list[Float[Array, "..."]]) -> Float[Array, ""]:
  """Returns the hinge loss of the generator, averaged over positions, then discriminators."""
  return sum((jnp.mean(jax.nn.relu(1.0 - f)) for f in fake), jnp.zeros(())) / len(fake)


def feature_matching_loss(
  real: list[list[Float[Array, "..."]]], fake: list[list[Float[Array, "..."]]]
) -> Float[Array, ""]:
  """Returns the feature matching loss, averaged over all layers of all discriminators.

  The loss of a layer is the mean absolute difference between its outputs for real and generated
  audio, divided by the mean absolute value of its outputs for real audio.
  """
  terms = [
    jnp.mean(jnp.abs(r - f)) / (jnp.mean(jnp.abs(r)) + 1e-6)
    for real_layers, fake_layers in zip(real, fake, strict=True)
    for r, f in zip(real_layers, fake_layers, strict=True)
  ]
  return sum(terms, jnp.zeros(())) / len(terms)


@functools.cache
def _mel_filters(sample_rate: int, window: int, num_mels: int) -> Float[np.ndarray, "bins mels"]:
  """Returns mel filters from 0 Hz to half the sample rate.

  The weights of each filter sum to 1. A filter that contains no bin has weights of 0.
  """
  filters = mel_filterbank(window // 2 + 1, num_mels, sample_rate)
  return (filters / np.maximum(filters.sum(axis=0), 1e-8)).astype(np.float32)
