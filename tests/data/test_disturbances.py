"""Disturbed speech: what changes, and what remains."""

import numpy as np
import pytest

from audiolm_jax.data import disturbances

RATE = 16_000


@pytest.fixture
def vowel():
  """A second of pulses of 120 Hz through two formants, as a voice."""
  pulses = np.zeros(RATE)
  pulses[:: RATE // 120] = 1.0
  time = np.arange(800) / RATE
  formants = np.exp(-300 * time) * np.cos(2 * np.pi * np.outer((700, 1_800), time)).sum(0)
  return (0.1 * np.convolve(pulses, formants)[:RATE]).astype(np.float32)


def periodicity(waveform, lag):
  """The correlation of a signal with itself one period later."""
  return np.corrcoef(waveform[lag:], waveform[:-lag])[0, 1]


def spectrum(waveform):
  """Levels in bands of 500 Hz, in dB."""
  power = np.abs(np.fft.rfft(waveform)) ** 2
  return 10 * np.log10(power[:8_000].reshape(16, -1).sum(1))


def test_whispered_speech_has_the_formants_and_no_pitch(vowel):
  found = disturbances.whispered(vowel, np.random.default_rng(0))
  lag = RATE // 120
  assert found.shape == vowel.shape and found.dtype == np.float32
  assert periodicity(vowel, lag) > 0.9 and abs(periodicity(found, lag)) < 0.2
  np.testing.assert_allclose(spectrum(found)[:8], spectrum(vowel)[:8], atol=4)
  assert np.std(found) == pytest.approx(np.std(vowel), rel=0.2)


def test_whispered_silence_is_silent():
  found = disturbances.whispered(np.zeros(4_000, np.float32), np.random.default_rng(0))
  assert np.isfinite(found).all() and np.abs(found).max() < 1e-3


@pytest.mark.parametrize("factor", [1.3, 1.8])
def test_fast_speech_is_shorter_and_has_its_pitch(vowel, factor):
  found = disturbances.fast(vowel, factor)
  assert len(found) == pytest.approx(RATE / factor, abs=1)
  assert periodicity(found[2_000:6_000], RATE // 120) > 0.8


@pytest.mark.parametrize("snr", [-5.0, 5.0, 15.0])
def test_noise_has_the_asked_level_and_the_sum_is_within_full_scale(vowel, snr):
  noise = 30 * disturbances.coloured_noise(RATE, 1.0, np.random.default_rng(0))
  found = disturbances.noisy(5 * vowel, noise, snr)
  assert np.abs(found).max() <= 1 + 1e-6
  gain = np.linalg.lstsq(np.stack([vowel, noise], 1), found, rcond=None)[0]
  ratio = 20 * np.log10(gain[0] * np.std(vowel) / (gain[1] * np.std(noise)))
  assert ratio == pytest.approx(snr, abs=0.1)


@pytest.mark.parametrize(("slope", "decibels"), [(0.0, 0.0), (1.0, 3.0), (2.0, 6.0)])
def test_noise_falls_by_its_slope_for_each_octave(slope, decibels):
  noise = disturbances.coloured_noise(8 * RATE, slope, np.random.default_rng(0))
  power = np.abs(np.fft.rfft(noise)) ** 2
  low, high = (power[8 * f : 16 * f].mean() for f in (500, 1_000))
  assert 10 * np.log10(low / high) == pytest.approx(decibels, abs=0.3)
  assert power[: 8 * 50].sum() < 1e-6 * power.sum()
