import numpy as np
import pytest

from audiolm_jax.evaluation import continuation

RATE = 16_000


def voice(frequency: float, seconds: float, level: float = 0.1) -> np.ndarray:
  t = np.arange(round(seconds * RATE)) / RATE
  return (level * sum(np.sin(2 * np.pi * k * frequency * t) / k for k in range(1, 9))).astype(  # pyright: ignore[reportAttributeAccessIssue]: a sum of arrays
    np.float32
  )


def test_statistics_of_a_known_sound():
  sound = np.concatenate([voice(150, 2.0), np.zeros(RATE, np.float32)])
  statistics = continuation.sound_statistics(sound, RATE)
  assert statistics.active_share == pytest.approx(2 / 3, abs=0.01)
  assert statistics.longest_pause_seconds == pytest.approx(1.0, abs=0.021)
  assert statistics.pitch_hz == pytest.approx(150, rel=0.01)
  assert statistics.pitch_range_semitones == pytest.approx(0, abs=0.3)
  assert statistics.voiced_share == pytest.approx(2 / 3, abs=0.03)
  power = 0.01 / 2 * sum(1 / k**2 for k in range(1, 9))
  assert statistics.level_db == pytest.approx(10 * np.log10(power), abs=0.2)
  assert statistics.clicks_per_second == 0
  assert statistics.clipped_share == 0


def test_differences_from_the_prompt_have_their_sign():
  prompt = continuation.sound_statistics(voice(100, 1.0), RATE)
  made = continuation.sound_statistics(voice(200, 1.0, level=0.05), RATE)
  assert continuation.level_difference_db(made, prompt) == pytest.approx(-6.02, abs=0.1)
  assert continuation.pitch_difference_semitones(made, prompt) == pytest.approx(12, abs=0.1)


def test_a_continuation_far_softer_than_its_prompt_is_silence():
  loud = continuation.loud_level(voice(100, 1.0), RATE)
  statistics = continuation.sound_statistics(voice(100, 1.0, level=1e-4), RATE, loud_db=loud)
  assert statistics.active_share == 0
  assert np.isnan(statistics.level_db)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_inserted_click_is_counted_once(count):
  sound = voice(150, 2.0)
  for index in range(count):
    sound[5000 + 7000 * index :] += 0.3 * (-1) ** index
  assert continuation.count_clicks(sound, RATE) == count


def test_noise_and_speech_onsets_are_no_clicks():
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(2 * RATE).astype(np.float32)
  assert continuation.count_clicks(0.2 * noise, RATE) == 0
  onset = voice(150, 1.0)
  onset[:8000] *= 0.01
  assert continuation.count_clicks(onset, RATE) == 0


def test_clipping_is_measured():
  assert continuation.sound_statistics(
    np.clip(voice(150, 1.0, level=5.0), -1, 1), RATE
  ).clipped_share == pytest.approx(0.8, abs=0.2)
