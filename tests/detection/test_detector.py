import dataclasses

import numpy as np
import pytest
import soxr

from audiolm_jax import bundles
from audiolm_jax.core.errors import AudioError
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.detection.detector import Detector
from tests.conftest import melody, noise

RATE = 16_000


def test_the_second_where_audio_becomes_synthetic_is_found(detector):
  sound = np.concatenate([melody(3.0), noise(3.0)])
  found = detector.detect(sound, RATE)
  assert len(found.per_second) == 6
  assert max(found.per_second[:2]) < 0.2 and min(found.per_second[4:]) > 0.8
  assert found.per_second[0] < found.probability_synthetic < found.per_second[-1]


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.1, 7.37, 40.0])
@pytest.mark.parametrize("block", [1_000, 16_001, 200_000])
def test_blocks_of_any_length_equal_the_whole(detector, seconds, block):
  sound = np.concatenate([melody(seconds / 2, seed=3), noise(seconds / 2, seed=4)])
  whole = detector.detect(sound, RATE)
  assert len(whole.per_second) == max(1, int(np.ceil(len(sound) / RATE)))
  blocks = [sound[i : i + block] for i in range(0, len(sound), block)]
  found = detector.detect_blocks(iter(blocks))
  assert found.probability_synthetic == pytest.approx(whole.probability_synthetic, abs=1e-5)
  assert found.per_second == pytest.approx(whole.per_second, abs=1e-5)
  odds = detector.score([sound, noise(1.0)])
  assert 1 / (1 + np.exp(-odds[0])) == pytest.approx(whole.probability_synthetic, abs=1e-5)


def test_silent_windows_are_ignored_and_a_silent_clip_is_refused(detector):
  silence = np.zeros(3 * RATE, np.float32)
  sound = np.concatenate([noise(2.0), silence, noise(2.0)])
  found = detector.detect(sound, RATE)
  assert found.per_second[3] is None and None not in found.per_second[:2]
  assert found.probability_synthetic > 0.8
  with pytest.raises(AudioError, match=r"x\.wav is silent"):
    detector.detect(silence, RATE, "x.wav")
  assert np.isnan(detector.score([silence, sound])).tolist() == [True, False]


def test_other_rates_and_number_types_have_the_same_result(detector):
  sound = melody(2.0)
  at_44 = soxr.resample(sound, RATE, 44_100)
  expected = detector.detect(sound, RATE).probability_synthetic
  assert detector.detect(at_44, 44_100).probability_synthetic == pytest.approx(expected, abs=0.02)
  pcm = np.round(sound * 32767).astype(np.int16)
  assert detector.detect(pcm, RATE).probability_synthetic == pytest.approx(expected, abs=0.01)


def test_short_and_invalid_audio_is_refused(detector):
  with pytest.raises(AudioError, match=r"at least 0.10 s are needed"):
    detector.detect(noise(0.05), RATE)
  with pytest.raises(AudioError, match="NaN"):
    detector.detect(np.full(RATE, np.nan, np.float32), RATE)


def test_a_bundle_keeps_its_detector(miniature_bundle, detector, tmp_path):
  bundle = dataclasses.replace(miniature_bundle, detector=detector)
  folder = bundles.save_bundle(bundle, tmp_path / "with", storage="float16")
  loaded = bundles.load_bundle(folder, stages=())
  assert loaded.detector is not None and loaded.detector.config == detector.config
  sound = noise(2.0)
  assert loaded.detector.score([sound]) == pytest.approx(detector.score([sound]), rel=0.02)
  assert loaded.token_hash == miniature_bundle.token_hash
  bare = bundles.load_bundle(bundles.save_bundle(miniature_bundle, tmp_path / "without"))
  assert bare.detector is None


def test_waveforms_in_another_layout_are_refused_with_what_to_do():
  untrained = Detector(ClassifierConfig(), {})
  stereo = np.stack([melody(1.0)] * 2, axis=1)
  for waveform, rate, words in [
    (stereo, RATE, r"the waveform has shape \(16000, 2\); give one clip, .* channel_axis=-1"),
    (stereo.T, RATE, r"the waveform has shape \(2, 16000\); give one clip"),
    (stereo[:, 0], "16000", "sample_rate is '16000'"),
    ("a.wav", RATE, "is the name 'a.wav'"),
  ]:
    with pytest.raises(AudioError, match=words):
      untrained.detect(waveform, rate)
  with pytest.raises(AudioError, match="is silent"):  # the mean of opposite channels
    untrained.detect(stereo * [1, -1], RATE, channel_axis=-1)
