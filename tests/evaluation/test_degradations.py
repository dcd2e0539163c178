import numpy as np
import pytest

from audiolm_jax.evaluation import degradations
from tests.conftest import melody

RATE = 16_000


@pytest.mark.parametrize(
  ("codec", "level", "kbits"),
  [("mp3", 0.8, 41), ("mp3", 0.9, 24), ("opus", 0.93, 24), ("opus", 0.98, 12)],
)
def test_codecs_have_the_bit_rates_of_the_report(codec, level, kbits):
  sound = melody(10.0)
  decoded, bits = degradations.compress(sound, RATE, codec, level)
  assert bits == pytest.approx(1000 * kbits, rel=0.15)
  assert decoded.shape == sound.shape and np.abs(decoded).max() > 0.1
  assert np.abs(decoded - sound).max() > 1e-3


def test_noise_has_the_requested_ratio():
  sound = 0.3 * melody(5.0)
  noise = degradations.add_noise(sound, 15.0, seed=0) - sound
  ratio = 10 * np.log10(np.mean(sound**2) / np.mean(noise**2))
  assert ratio == pytest.approx(15.0, abs=0.1)


def test_a_narrow_channel_removes_high_frequencies():
  time = np.arange(RATE) / RATE
  low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (1_000, 6_000))
  inside = slice(2_000, -2_000)
  narrow = degradations.narrow(low + high, RATE, 8_000)
  assert len(narrow) == RATE
  np.testing.assert_allclose(narrow[inside], low[inside], atol=1e-2)
  wide = degradations.narrow(low + high, RATE, 44_100)
  np.testing.assert_allclose(wide[inside], (low + high)[inside], atol=1e-2)


def test_aac_has_no_delay_and_removes_little_at_64_kbits():
  pytest.importorskip("av", reason="needs the extra measures")
  sound = melody(2.0)[:31_777]
  decoded = degradations.aac(sound, RATE, 64_000)
  assert decoded.shape == sound.shape
  inside = slice(2_000, -2_000)
  error = np.mean((decoded - sound)[inside] ** 2) / np.mean(sound[inside] ** 2)
  assert 1e-6 < error < 1e-2


def test_music_has_the_requested_ratio_and_the_notes_of_a_scale():
  sound = 0.2 * melody(4.0)
  mixed = degradations.add_music(sound, RATE, 10.0, seed=1)
  ratio = 10 * np.log10(np.mean(sound**2) / np.mean((mixed - sound) ** 2))
  assert mixed.dtype == np.float32 and ratio == pytest.approx(10.0, abs=0.1)
  music = degradations.piano(4 * RATE, RATE, seed=1)
  spectrum = np.abs(np.fft.rfft(music))
  loudest = 69 + 12 * np.log2(np.argsort(spectrum)[-5:] / 4 / 440.0)
  np.testing.assert_allclose(loudest, np.round(loudest), atol=0.1)
  assert {int(note) % 12 for note in np.round(loudest)} <= {0, 2, 4, 5, 7, 9, 11}
  assert (degradations.piano(4 * RATE, RATE, seed=2) != music).any()


@pytest.mark.parametrize(
  ("codec", "level", "rate"),
  [("opus", 0.93, 44_100), ("opus", 0.93, 22_050), ("opus", 0.93, 96_000), ("mp3", 0.8, 20_000)],
)
def test_codecs_accept_rates_that_they_do_not_support(codec, level, rate):
  time = np.arange(rate) / rate
  sound = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
  decoded, bits = degradations.compress(sound, rate, codec, level)
  assert decoded.shape == sound.shape and bits > 1000
  spectrum, expected = (np.abs(np.fft.rfft(x)) for x in (decoded, sound))  # MP3 adds a delay
  assert spectrum.argmax() == 440 and spectrum[440] == pytest.approx(expected[440], rel=0.1)
