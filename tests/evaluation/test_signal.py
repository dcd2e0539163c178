import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import signal

RATE = 16_000


def tone(frequency: float, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
  t = np.arange(round(seconds * RATE)) / RATE
  return (level * np.sin(2 * np.pi * frequency * t)).astype(np.float32)


def speech_like(seed: int = 0, seconds: float = 3.0) -> np.ndarray:
  """Harmonics of a gliding pitch with syllables and some noise, over the whole band."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * RATE)) / RATE
  phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
  voice = sum(np.sin(k * phase) / k for k in range(1, 30))
  syllables = np.clip(np.sin(2 * np.pi * 2.5 * t), 0, None) ** 0.5
  noise = 0.02 * rng.standard_normal(len(t))
  return (0.2 * syllables * (voice + noise)).astype(np.float32)


def test_full_scale_sine_is_zero_db_in_the_spectrogram():
  magnitudes = signal.spectrogram(tone(1000, level=1.0), 1024, 256)
  assert magnitudes[10].max() == pytest.approx(1.0, abs=0.01)
  assert np.argmax(magnitudes[10]) == 1000 * 1024 // RATE


def test_log_mel_distance_of_a_halved_signal_is_six_db_where_it_sounds():
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
  assert signal.log_mel_distance(noise, noise, RATE) == 0
  assert signal.log_mel_distance(noise, noise / 2, RATE) == pytest.approx(6.02, abs=0.1)


def test_log_mel_distance_ignores_what_is_below_the_floor():
  silence = np.zeros(RATE, np.float32)
  assert signal.log_mel_distance(silence, silence + 1e-7, RATE) == 0


def test_log_mel_distance_grows_with_noise():
  clean = speech_like()
  noise = np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
  distances = [signal.log_mel_distance(clean, clean + s * noise, RATE) for s in (0, 1e-3, 1e-2)]
  assert distances == sorted(distances) and distances[1] > 0


@pytest.mark.parametrize("ratio_db", [0.0, 10.0, 20.0])
def test_si_sdr_of_orthogonal_noise_is_the_power_ratio_at_any_scale(ratio_db):
  clean, noise = tone(400), tone(1000)  # whole periods: orthogonal, without mean
  noisy = clean + noise * 10 ** (-ratio_db / 20)
  assert signal.si_sdr(clean, noisy) == pytest.approx(ratio_db, abs=1e-2)
  assert signal.si_sdr(clean, 0.1 * noisy) == pytest.approx(ratio_db, abs=1e-2)


def test_si_sdr_of_a_silent_reference_is_nan():
  assert np.isnan(signal.si_sdr(np.zeros(100, np.float32), np.ones(100, np.float32)))


def test_stoi_is_one_for_the_same_and_lower_for_noisy_speech():
  clean = speech_like()
  noise = np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
  assert signal.stoi(clean, clean, RATE) == pytest.approx(1.0, abs=1e-6)
  assert signal.stoi(clean, clean + 0.3 * noise, RATE) < 0.9


def test_stoi_of_too_little_speech_is_nan():
  assert np.isnan(signal.stoi(tone(300, 0.1), tone(300, 0.1), RATE))


def test_missing_pesq_names_the_extra(monkeypatch):
  monkeypatch.setattr(signal, "pesq_installed", lambda: False)
  with pytest.raises(UserError, match=r"requirements/evaluation\.txt"):
    signal.pesq_wb(np.ones(4), np.ones(4), RATE)


def test_pesq_is_at_its_top_for_the_same_and_lower_for_noisy_speech():
  pytest.importorskip("pesq")
  clean = speech_like()
  noise = np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
  assert signal.pesq_wb(clean, clean, RATE) == pytest.approx(4.644, abs=1e-2)
  assert signal.pesq_wb(clean, clean + 0.1 * noise, RATE) < 3.0


def test_pesq_of_silence_is_nan():
  pytest.importorskip("pesq")
  silence = np.zeros(RATE, np.float32)
  assert np.isnan(signal.pesq_wb(silence, silence, RATE))


def test_a_pair_of_unequal_lengths_is_refused():
  with pytest.raises(ValueError, match="shapes"):
    signal.si_sdr(np.zeros(3, np.float32), np.zeros(4, np.float32))
