import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.augment import AugmentConfig, augmented_log_mel
from audiolm_jax.semantic.features import (
  LogMelConfig,
  normalised_log_mel,
  pad_waveform,
  power_spectrum,
)

CONFIG = LogMelConfig()
STILL = AugmentConfig(
  formant_range=1.0,
  pitch_range=1.0,
  harmonics_range=0.0,
  gain_db=0.0,
  equalizer_db=0.0,
  noise_low_db=-200.0,
  noise_high_db=-200.0,
)


@pytest.fixture
def power(speechlike):
  waveform = jnp.stack([speechlike(6400, seed) for seed in (0, 1)])
  return power_spectrum(pad_waveform(waveform, CONFIG), CONFIG)


def test_ranges_of_zero_leave_the_features_alone(power):
  view = augmented_log_mel(jax.random.key(0), power, CONFIG, STILL)
  np.testing.assert_allclose(view, normalised_log_mel(power, CONFIG), atol=0.05)


def test_factors_below_1_are_refused():
  for name in ("formant_range", "pitch_range"):
    with pytest.raises(ConfigError, match=f"{name} 0.0 is a factor; set it to 1 or more"):
      dataclasses.replace(STILL, **{name: 0.0})


def test_views_differ_by_key_and_by_utterance_and_are_finite(power):
  power = power.at[1].set(power[0])
  one = augmented_log_mel(jax.random.key(0), power, CONFIG, AugmentConfig())
  two = augmented_log_mel(jax.random.key(1), power, CONFIG, AugmentConfig())
  assert np.isfinite(one).all()
  assert jnp.abs(one - two).mean() > 0.1
  assert jnp.abs(one[0] - one[1]).mean() > 0.1


def test_pitch_and_formants_move_along_frequency(power):
  # One tone: its band moves up or down with the drawn factor, the same in every frame.
  bins = jnp.arange(CONFIG.num_bins)
  tone = jnp.exp(-(((bins - 60) / 6.0) ** 2))[None, None] * jnp.ones((8, 10, 1))
  moving = STILL.__class__(**{**STILL.__dict__, "formant_range": 1.3})
  view = augmented_log_mel(jax.random.key(3), tone, CONFIG, moving)
  peaks = np.asarray(jnp.argmax(view, axis=-1))
  still = int(jnp.argmax(normalised_log_mel(tone, CONFIG)[0, 0]))
  assert (peaks == peaks[:, :1]).all()
  assert len(set(peaks[:, 0])) > 3
  assert np.abs(peaks - still).max() <= 12


def test_silent_input_is_finite(power):
  view = augmented_log_mel(jax.random.key(0), jnp.zeros_like(power), CONFIG, AugmentConfig())
  assert np.isfinite(view).all()
