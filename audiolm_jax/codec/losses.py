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
  """Scales of the mel loss.

  Attributes:
    sample_rate: Hz.
    windows: samples per analysis window; the hop is a quarter.
    num_mels: bands; a window shorter than four times this uses a quarter of its length.
    log_floor: added to magnitudes before the logarithm, where full scale is about 1; magnitudes
      below it have little weight.
    linear_weight: if set, all scales have the same weight, and this is the weight of the relative
      difference of magnitudes beside the mean absolute difference of their logarithms. None for the
      weights of SoundStream.
  """

  sample_rate: int = 16_000
  windows: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
  num_mels: int = 64
  log_floor: float = 1e-5
  linear_weight: float | None = None


@dataclasses.dataclass(frozen=True)
class ComplexLossConfig:
  """Scales of the complex-spectrum loss.

  Attributes:
    windows: samples per analysis window; the hop is a quarter.
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
  """Returns the distance of mel spectrograms, linear and logarithmic, over all scales.

  With `linear_weight` None, the loss of scale s is the mean absolute difference of mel magnitudes
  plus sqrt(s / 2) times the mean root-mean-square difference of their logarithms. The weights of
  the scales keep the loss near one, since it takes means rather than sums.

  Otherwise it is the mean absolute difference of the logarithms, plus `linear_weight` times the
  mean absolute difference of the magnitudes divided by their mean in the target. Loud bins, which
  dominate the second term, and short windows then count more.
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
  """Returns the distance of complex spectra with magnitudes m compressed to m**0.4.

  Unlike a distance of magnitudes it depends on the phase, and unlike a distance of waveforms it
  also gives weight to quiet bins. The mean distance of each scale is divided by the mean magnitude
  of the target.
  """
  total = jnp.zeros(())
  for window in config.windows:
    # A full-scale tone has a magnitude near the square root of the window length.
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
  """Returns the hinge loss of the discriminators, averaged over positions and then over them."""
  terms = [
    jnp.mean(jax.nn.relu(1.0 - r)) + jnp.mean(jax.nn.relu(1.0 + f))
    for r, f in zip(real, fake, strict=True)
  ]
  return sum(terms, jnp.zeros(())) / len(terms)


def hinge_generator_loss(fake: list[Float[Array, "..."]]) -> Float[Array, ""]:
  """Returns the hinge loss of the generator, averaged over positions and discriminators."""
  return sum((jnp.mean(jax.nn.relu(1.0 - f)) for f in fake), jnp.zeros(())) / len(fake)


def feature_matching_loss(
  real: list[list[Float[Array, "..."]]], fake: list[list[Float[Array, "..."]]]
) -> Float[Array, ""]:
  """Returns the mean absolute difference of internal layers, relative to their magnitude."""
  terms = [
    jnp.mean(jnp.abs(r - f)) / (jnp.mean(jnp.abs(r)) + 1e-6)
    for real_layers, fake_layers in zip(real, fake, strict=True)
    for r, f in zip(real_layers, fake_layers, strict=True)
  ]
  return sum(terms, jnp.zeros(())) / len(terms)


@functools.cache
def _mel_filters(sample_rate: int, window: int, num_mels: int) -> Float[np.ndarray, "bins mels"]:
  """Returns mel filters from 0 Hz to half the sample rate that sum to 1 each."""
  filters = mel_filterbank(window // 2 + 1, num_mels, sample_rate)
  return (filters / np.maximum(filters.sum(axis=0), 1e-8)).astype(np.float32)
