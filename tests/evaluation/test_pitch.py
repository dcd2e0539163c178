import numpy as np
import pytest

from audiolm_jax.evaluation.pitch import pitch_track

RATE = 16_000


def harmonics(frequency: float, seconds: float = 1.0) -> np.ndarray:
  t = np.arange(round(seconds * RATE)) / RATE
  return (0.1 * sum(np.sin(2 * np.pi * k * frequency * t) / k for k in range(1, 12))).astype(  # pyright: ignore[reportAttributeAccessIssue]: a sum of arrays
    np.float32
  )


@pytest.mark.parametrize("frequency", [75.0, 110.0, 200.0, 317.0, 430.0])
def test_pitch_of_a_steady_voice_is_found_within_half_a_percent(frequency):
  pitch = pitch_track(harmonics(frequency), RATE)[10:-10]
  assert np.isfinite(pitch).all()
  assert np.abs(pitch / frequency - 1).max() < 5e-3


def test_noise_and_silence_have_no_pitch():
  noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
  assert np.isfinite(pitch_track(noise, RATE)).mean() < 0.02
  assert not np.isfinite(pitch_track(np.zeros(RATE, np.float32), RATE)).any()


def test_pauses_between_voices_are_unvoiced():
  pitch = pitch_track(np.concatenate([harmonics(150), np.zeros(RATE, np.float32)]), RATE)
  assert np.isfinite(pitch[10:90]).all()
  assert not np.isfinite(pitch[110:190]).any()


def test_a_clip_shorter_than_one_window_still_has_frames():
  assert len(pitch_track(np.zeros(100, np.float32), RATE)) >= 1
