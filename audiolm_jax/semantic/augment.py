"""Two hearings of one utterance: what a voice changes moves, what is said stays, frame by frame.

Small corpora hold few voices, and an encoder trained on them alone codes the voice. These optional
perturbations act on power spectra, so the frames stay aligned and the cost is small matrices.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from audiolm_jax.semantic.features import LogMelConfig, normalised_log_mel


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Ranges drawn anew for each view of each utterance; a range of zero leaves that part alone.

  `formant_range` and `pitch_range` are the largest factors, up or down, by which the spectral
  envelope and the fine structure (the harmonics) move along the frequency axis.
  `envelope_quefrency` (seconds) parts the two in the cepstrum.
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


def augmented_log_mel(
  key: PRNGKeyArray,
  power: Float[Array, "batch frames bins"],
  config: LogMelConfig,
  augment: AugmentConfig,
) -> Float[Array, "batch frames mels"]:
  """One perturbed view of each utterance, as normalised log-mel features.

  Moves formants and pitch apart (vocal tract length perturbation on the cepstrally smoothed
  envelope and on what is left), then a smooth random equalizer with gain, then coloured noise.
  """
  formant_key, pitch_key, depth_key, gain_key, noise_key = jax.random.split(key, 5)
  batch, _, bins = power.shape
  log_power = jnp.log(power + 0.1 * config.floor)
  envelope = log_power @ _envelope_operator(config, augment.envelope_quefrency)
  fine = log_power - envelope
  formant = _factor(formant_key, batch, augment.formant_range)
  # A voice with a longer tract tends to be a lower one: pitch moves with formants, then on its own.
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
  """Linear interpolation from bin `i / factor` to bin i; past the end the last bin, or nothing."""
  source = jnp.arange(bins) / factor[:, None]
  if fill:
    source = jnp.minimum(source, bins - 1.0)
  return jnp.maximum(0.0, 1.0 - jnp.abs(jnp.arange(bins)[None, :, None] - source[:, None, :]))


def _equalizer(
  key: PRNGKeyArray, batch: int, bins: int, augment: AugmentConfig
) -> Float[Array, "batch 1 bins"]:
  """Gain plus a smooth curve over frequency, in nepers of power."""
  gain_key, curve_key = jax.random.split(key)
  gain = jax.random.uniform(gain_key, (batch, 1), minval=-1.0, maxval=1.0) * augment.gain_db
  curve = _smooth_curve(curve_key, batch, bins, augment) * augment.equalizer_db
  return ((gain + curve) * (np.log(10.0) / 10.0))[:, None, :]


def _noise(
  key: PRNGKeyArray, batch: int, bins: int, augment: AugmentConfig
) -> Float[Array, "batch 1 bins"]:
  """Power per bin of a stationary coloured noise."""
  level_key, curve_key = jax.random.split(key)
  level = jax.random.uniform(
    level_key, (batch, 1), minval=augment.noise_low_db, maxval=augment.noise_high_db
  )
  curve = _smooth_curve(curve_key, batch, bins, augment) * augment.equalizer_db
  return (10.0 ** ((level + curve) / 10.0))[:, None, :]


def _smooth_curve(
  key: PRNGKeyArray, batch: int, bins: int, augment: AugmentConfig
) -> Float[Array, "batch bins"]:
  """Random cosines over a warped frequency axis, standard deviation about 1."""
  order = np.arange(1, augment.equalizer_terms + 1)
  position = np.sqrt(np.linspace(0.0, 1.0, bins))
  basis = np.cos(np.pi * order[:, None] * position) / np.sqrt(order)[:, None]
  basis /= np.sqrt(0.5 * np.sum(1.0 / order))
  draw = jax.random.normal(key, (batch, augment.equalizer_terms))
  return draw @ jnp.asarray(basis, jnp.float32)


@functools.lru_cache
def _envelope_operator(config: LogMelConfig, quefrency: float) -> np.ndarray:
  """Log spectrum to smooth envelope: cosine transform, its low part, and back; [bins, bins]."""
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
