"""Random perturbations of speech that change the voice but not the words.

A small corpus has few voices, and an encoder that is trained on such a corpus learns to encode the
voice. These optional perturbations are applied to power spectra. They do not shift frames in time
and need only small matrix products.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.features import LogMelConfig, normalised_log_mel


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Ranges of the random values that are drawn for each perturbed copy of an utterance.

  Attributes:
    formant_range: largest factor, up or down, by which the frequencies of the spectral envelope are
      multiplied; 1 for no change.
    pitch_range: largest additional factor, up or down, for the frequencies of the fine structure
      (the harmonics); 1 for no additional change.
    envelope_quefrency: quefrency in seconds that separates envelope and fine structure in the
      cepstrum.
    harmonics_range: largest share by which the fine structure is reduced; 0 for no change.
    gain_db: largest gain, up or down, in dB; 0 for no gain.
    equalizer_db: standard deviation of the equalizer curve and the noise spectrum, in dB; 0 for
      flat curves.
    equalizer_terms: number of cosines in the equalizer curve and in the noise spectrum.
    noise_low_db: lowest mean power of the noise per bin, in dB relative to full scale.
    noise_high_db: highest mean power of the noise per bin, in dB relative to full scale.

  Raises:
    ConfigError: `formant_range` or `pitch_range` is less than 1 or not finite.
  """

  formant_range: float = 1.25
  pitch_range: float = 1.6
  envelope_quefrency: float = 0.0025
  harmonics_range: float = 0.5
  gain_db: float = 8.0
  equalizer_db: float = 5.0
  equalizer_terms: int = 6
  noise_low_db: float = -95.0
  noise_high_db: float = -68.0

  def __post_init__(self) -> None:
    for name in ("formant_range", "pitch_range"):
      if not 1 <= getattr(self, name) < math.inf:
        raise ConfigError(f"{name} {getattr(self, name)} is a factor; set it to 1 or more")


def augmented_log_mel(
  key: PRNGKeyArray,
  power: Float[Array, "batch frames bins"],
  config: LogMelConfig,
  augment: AugmentConfig,
) -> Float[Array, "batch frames mels"]:
  """Returns one perturbed copy of each utterance as normalised log-mel features.

  The cepstrum separates each log spectrum into a smooth envelope and the remaining fine structure.
  First, the frequencies of the envelope (formants) and the fine structure (pitch) are multiplied by
  random factors. The fine structure is also reduced by a random share. Then a smooth random
  equalizer with gain is applied, and coloured noise is added.

  Args:
    key: random key.
    power: power spectra, as `power_spectrum` returns them.
    config: settings of the features.
    augment: ranges of the perturbations.
  """
  formant_key, pitch_key, depth_key, gain_key, noise_key = jax.random.split(key, 5)
  batch, _, bins = power.shape
  log_power = jnp.log(power + 0.1 * config.floor)
  envelope = log_power @ _envelope_operator(config, augment.envelope_quefrency)
  fine = log_power - envelope
  formant = _factor(formant_key, batch, augment.formant_range)
  # Longer vocal tracts tend to have lower voices, so pitch changes with formants, and then by an
  # independent factor.
  pitch = formant * _factor(pitch_key, batch, augment.pitch_range)
  depth = 1.0 - augment.harmonics_range * jax.random.uniform(depth_key, (batch, 1, 1))
  moved = envelope @ _warp(formant, bins, fill=True) + depth * (
    fine @ _warp(pitch, bins, fill=False)
  )
  moved += _equalizer(gain_key, batch, bins, augment)
  noise = _noise(noise_key, batch, bins, augment)
  return normalised_log_mel(jnp.exp(jnp.minimum(moved, 10.0)) + noise, config)


def _factor(key: PRNGKeyArray, batch: int, largest: float) -> Float[Array, "batch"]:
  return jnp.exp(jnp.log(largest) * jax.random.uniform(key, (batch,), minval=-1.0, maxval=1.0))


def _warp(factor: Float[Array, "batch"], bins: int, fill: bool) -> Float[Array, "batch bins bins"]:
  """Returns one matrix per factor that computes bin i by linear interpolation at bin `i / factor`.

  If `i / factor` is past the last bin, the result is the last bin if `fill` is true, else 0.
  """
  source = jnp.arange(bins) / factor[:, None]
  if fill:
    source = jnp.minimum(source, bins - 1.0)
  return jnp.maximum(0.0, 1.0 - jnp.abs(jnp.arange(bins)[None, :, None] - source[:, None, :]))


def _equalizer(
  key: PRNGKeyArray, batch: int, bins: int, augment: AugmentConfig
) -> Float[Array, "batch 1 bins"]:
  """Returns a gain plus a smooth curve over frequency, as natural logarithms of power."""
  gain_key, curve_key = jax.random.split(key)
  gain = jax.random.uniform(gain_key, (batch, 1), minval=-1.0, maxval=1.0) * augment.gain_db
  curve = _smooth_curve(curve_key, batch, bins, augment) * augment.equalizer_db
  return ((gain + curve) * (np.log(10.0) / 10.0))[:, None, :]


def _noise(
  key: PRNGKeyArray, batch: int, bins: int, augment: AugmentConfig
) -> Float[Array, "batch 1 bins"]:
  """Returns the power per bin of stationary coloured noise."""
  level_key, curve_key = jax.random.split(key)
  level = jax.random.uniform(
    level_key, (batch, 1), minval=augment.noise_low_db, maxval=augment.noise_high_db
  )
  curve = _smooth_curve(curve_key, batch, bins, augment) * augment.equalizer_db
  return (10.0 ** ((level + curve) / 10.0))[:, None, :]


def _smooth_curve(
  key: PRNGKeyArray, batch: int, bins: int, augment: AugmentConfig
) -> Float[Array, "batch bins"]:
  """Returns random curves over frequency, sums of cosines, with a standard deviation of about 1."""
  order = np.arange(1, augment.equalizer_terms + 1)
  position = np.sqrt(np.linspace(0.0, 1.0, bins))
  basis = np.cos(np.pi * order[:, None] * position) / np.sqrt(order)[:, None]
  basis /= np.sqrt(0.5 * np.sum(1.0 / order))
  draw = jax.random.normal(key, (batch, augment.equalizer_terms))
  return draw @ jnp.asarray(basis, jnp.float32)


@functools.lru_cache
def _envelope_operator(config: LogMelConfig, quefrency: float) -> np.ndarray:
  """Returns the matrix [bins, bins] that maps log spectra to smooth envelopes.

  The matrix is the product of a cosine transform, a low-pass filter of the cepstrum and the inverse
  transform.
  """
  bins = config.num_bins
  order = np.arange(bins)
  angle = np.pi * np.outer(order, order) / (bins - 1)
  ends = np.ones(bins)
  ends[[0, -1]] = 0.5
  forward = np.cos(angle) * ends[:, None] * 2.0 / (bins - 1)
  cut = quefrency * config.sample_rate
  keep = np.where(order <= cut, 0.5 + 0.5 * np.cos(np.pi * np.minimum(order / cut, 1.0)), 0.0)
  lifter = np.where(order <= 0.5 * cut, 1.0, np.minimum(1.0, 2.0 * keep)) * ends
  return ((forward * lifter) @ np.cos(angle)).astype(np.float32)
