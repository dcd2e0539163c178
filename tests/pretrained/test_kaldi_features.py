"""Log-mel features: those of the reference (w2v_bert_2_reference.py), of clips of any length."""

import numpy as np
import pytest

from audiolm_jax.core.sliced import SlicedBlocks
from audiolm_jax.pretrained import kaldi_features
from audiolm_jax.pretrained.kaldi_features import kaldi_log_mel, standardized_log_mel
from tests.conftest import noise
from tests.pretrained.conftest import GOLDEN
from tests.pretrained.equality import relative_difference


@pytest.mark.parametrize("clip", [0, 1])
def test_features_equal_the_reference(clip):
  with np.load(GOLDEN / "w2v_bert_2" / "expected.npz") as file:
    waveform, expected = file[f"waveform_{clip}"].astype(np.float32), file[f"log_mel_{clip}"]
  found = standardized_log_mel(waveform, 80)
  assert found.dtype == np.float32 and len(found) == (len(waveform) - 400) // 160 + 1
  # Two frames are a step; one without a partner counts for mean and variance alone.
  found = found[: 2 * len(expected)].reshape(len(expected), -1)
  assert relative_difference(found, expected) < 1e-5


def test_a_band_has_mean_0_and_variance_1_over_the_clip_whatever_the_loudness():
  found = standardized_log_mel(noise(1.0), 80)
  np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(found.var(axis=0, ddof=1), 1, atol=1e-5)
  np.testing.assert_allclose(standardized_log_mel(noise(1.0) / 64, 80), found, atol=1e-5)


def test_an_octave_up_and_twice_as_loud_show_where_they_should():
  time = np.arange(4_000) / 16_000

  def mean_log_mel(loudness, pitch):
    tone = loudness * np.sin(2 * np.pi * pitch * time)
    return kaldi_log_mel(tone, 80).mean(axis=0, dtype=np.float64)

  low, high, loud = mean_log_mel(1, 500), mean_log_mel(1, 1_000), mean_log_mel(2, 500)
  # Band i is centred 1 + i of 81 equal parts of the mel scale up from 20 Hz to 8 kHz.
  span = np.log([1 + 8_000 / 700, 1 + 500 / 700, 1 + 1_000 / 700]) - np.log(1 + 20 / 700)
  np.testing.assert_allclose([low.argmax(), high.argmax()], 81 * span[1:] / span[0] - 1, atol=1)
  np.testing.assert_allclose(loud[low.argmax()] - low.max(), np.log(4), atol=1e-5)


def test_long_clips_in_blocks_give_the_features_of_each_part(monkeypatch):
  clip = noise(0.6)
  whole = kaldi_log_mel(clip, 80)
  monkeypatch.setattr(kaldi_features, "_BLOCK", 7)
  np.testing.assert_array_equal(kaldi_log_mel(clip, 80), whole)
  np.testing.assert_array_equal(kaldi_log_mel(clip[160 * 5 :], 80), whole[5:])


def test_features_of_a_clip_that_is_read_in_slices_equal_those_of_the_whole(monkeypatch):
  monkeypatch.setattr(kaldi_features, "_BLOCK", 8)
  clip = noise(0.6)
  clip[len(clip) // 2 :] /= 10
  asked = []

  class Slices(SlicedBlocks):
    def __getitem__(self, part):
      asked.append(part.stop - part.start)
      return super().__getitem__(part)

  sliced = Slices(lambda: np.array_split(clip, 9), clip.shape)
  found = standardized_log_mel(sliced, 80, together=2)
  whole = standardized_log_mel(clip, 80, together=2)
  assert found.shape == whole.shape == (29, 160)
  parts = [found[start : start + 6] for start in range(0, 29, 5)]
  for start, part in zip(range(0, 29, 5), parts, strict=True):
    np.testing.assert_allclose(part, whole[start : start + 6], rtol=0, atol=1e-5)
  np.testing.assert_array_equal(whole.reshape(58, 80), standardized_log_mel(clip, 80)[:58])
  assert max(asked) == 7 * 160 + 400


def test_silence_is_zero():
  assert not standardized_log_mel(np.zeros(4_000, np.float32), 80).any()
