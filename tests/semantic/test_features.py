import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.features import (
  LogMelConfig,
  log_mel,
  mel_filters,
  normalised_log_mel,
  pad_waveform,
  power_spectrum,
)

CONFIG = LogMelConfig()


@pytest.mark.parametrize(
  ("samples", "frames"), [(1, 4), (639, 4), (640, 4), (641, 8), (16_000, 100)]
)
def test_every_begun_40_ms_gives_four_frames(samples, frames):
  assert log_mel(np.zeros((2, samples), np.float32), CONFIG).shape == (2, frames, 80)  # pyright: ignore[reportArgumentType]: NumPy arrays serve


def test_chunks_with_their_margins_give_the_frames_of_the_whole(speechlike):
  waveform = speechlike(640 * 20)[None]
  whole = log_mel(waveform, CONFIG)
  padded = pad_waveform(jnp.asarray(waveform), CONFIG)
  for first, last in [(0, 3), (3, 4), (4, 20)]:
    piece = padded[:, first * 640 : last * 640 + 2 * CONFIG.margin]
    frames = normalised_log_mel(power_spectrum(piece, CONFIG), CONFIG)
    np.testing.assert_allclose(frames, whole[:, 4 * first : 4 * last], atol=1e-4)


def test_a_full_scale_sine_has_power_one_at_its_own_bin_only():
  time = np.arange(16_000) / CONFIG.sample_rate
  frequency = 64 * CONFIG.sample_rate / CONFIG.fft_length
  sine = np.sin(2 * np.pi * frequency * time).astype(np.float32)[None]
  power = power_spectrum(pad_waveform(jnp.asarray(sine), CONFIG), CONFIG)[0, 10:-10]
  np.testing.assert_allclose(power[:, 64], 1.0, atol=0.02)
  assert power[:, :60].max() < 1e-4
  assert power[:, 69:].max() < 1e-4


def test_power_spectra_equal_those_of_numpys_fft(speechlike):
  waveform = speechlike(3200)
  power = power_spectrum(pad_waveform(jnp.asarray(waveform[None]), CONFIG), CONFIG)[0]
  window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(400) + 0.5) / 400)
  start = 7 * 160 - CONFIG.margin
  frame = waveform[start : start + 400] * window * 2 / window.sum()
  np.testing.assert_allclose(power[7], np.abs(np.fft.rfft(frame, 512)) ** 2, atol=1e-6, rtol=1e-4)


def test_features_keep_the_level_of_the_utterance(speechlike):
  waveform = speechlike(6400)[None]
  quieter = log_mel(0.1 * waveform, CONFIG)
  assert (log_mel(waveform, CONFIG) - quieter).mean() > 0.5


def test_frame_is_centred_on_its_hop():
  click = np.zeros((1, 6400), np.float32)
  click[0, 20 * 160 + 80] = 1.0
  energy = power_spectrum(pad_waveform(jnp.asarray(click), CONFIG), CONFIG)[0].sum(-1)
  assert int(jnp.argmax(energy)) == 20
  np.testing.assert_allclose(energy[19], energy[21], rtol=1e-1)


def test_every_mel_band_has_energy():
  assert (mel_filters(CONFIG).sum(0) > 0).all()
  assert (mel_filters(LogMelConfig(num_mels=128, fft_length=400)).sum(0) > 0).all()


def test_silence_is_finite():
  assert np.isfinite(log_mel(np.zeros((1, 1000), np.float32), CONFIG)).all()  # pyright: ignore[reportArgumentType]: NumPy arrays serve


def test_a_window_shorter_than_the_hop_is_refused():
  with pytest.raises(ConfigError, match="window 100"):
    LogMelConfig(window_length=100)
  with pytest.raises(ConfigError, match="mel range"):
    LogMelConfig(max_frequency=9000.0)
