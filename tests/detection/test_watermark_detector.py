import numpy as np
import pytest

from audiolm_jax.detection import watermark_detector
from audiolm_jax.detection.watermark_detector import WatermarkDetector, offset_codes
from tests.conftest import melody
from tests.tone_codec import CODEC, MARK, RATE, marked_codes, sound_of


@pytest.fixture(scope="module")
def sound():
  """Twelve seconds, marked between seconds 4 and 8."""
  return sound_of(marked_codes(600, 200, 400))


@pytest.fixture(scope="module")
def detector():
  return WatermarkDetector(MARK, CODEC, MARK.key)


@pytest.mark.parametrize("cut", [0, 137, 313])
def test_a_mark_is_found_after_a_cut_at_any_sample(detector, sound, cut):
  found = detector.detect(sound[cut:], RATE)
  assert found.p_value == 10**found.log10_p_value < 1e-6
  assert len(found.per_second) == 12
  assert max(found.per_second[5:7]) < 1e-6 < 1e-2 < min(found.per_second[:2])


def test_another_key_and_another_sound_give_no_evidence(detector, sound):
  assert WatermarkDetector(MARK, CODEC, MARK.key + 1).detect(sound, RATE).p_value > 0.01
  assert detector.detect(melody(5.0), RATE).p_value > 0.01
  assert detector.detect(sound[:100], RATE) == (0.0, [])


@pytest.mark.parametrize("block", [1_000, 20_800, 192_000])
def test_blocks_of_any_length_give_the_same_result(detector, sound, block):
  whole = detector.detect(sound, RATE)
  blocks = (sound[i : i + block] for i in range(0, len(sound), block))
  assert detector.detect_blocks(blocks) == whole


def test_offset_codes_are_those_of_the_audio_from_each_offset_on(miniature_bundle, monkeypatch):
  monkeypatch.setattr(watermark_detector, "OFFSETS", 2)
  codec, waveform = miniature_bundle.codec, melody(1.5)[:23_000]
  found = np.concatenate([*offset_codes(codec, [waveform[:9_000], waveform[9_000:]])], axis=1)
  assert found.shape == (2, (23_000 - 160) // 320, 4)
  for row, offset in zip(found, (0, 160), strict=True):
    expected = codec.encode_long(waveform[offset:])[: len(row)]
    # Equal but for codes that are equally near up to rounding.
    assert (row == expected).mean() > 0.99
