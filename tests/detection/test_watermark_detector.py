import numpy as np
import pytest

from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.detection import watermark_detector
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig, is_green
from audiolm_jax.detection.watermark_detector import WatermarkDetector, offset_codes
from tests.conftest import melody

RATE, HOP, SIZE = 16_000, 320, 24
TONES = 40 + 3 * np.arange(2 * SIZE)  # bins of a spectrum of two frames


class ToneCodec:
  """Codes a frame by the loudest of 24 low and of 24 high tones; needs no training."""

  spec = CodecSpec(RATE, HOP, num_quantizers=2, codebook_size=SIZE)

  def encode(self, waveform):
    frames = waveform.reshape(len(waveform), -1, HOP)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(HOP), 4 * HOP))[..., TONES]
    return np.stack([spectrum[..., :SIZE].argmax(-1), spectrum[..., SIZE:].argmax(-1)], axis=-1)

  def decode(self, codes):
    time = np.arange(codes.shape[1] * HOP).reshape(-1, HOP)
    tones = TONES[codes + np.array([0, SIZE])][..., None] / (4 * HOP)
    return 0.2 * np.sin(2 * np.pi * tones * time[:, None]).sum(axis=2).reshape(len(codes), -1)

  def stream_encoder(self, batch):
    return type("Stream", (), {"push": lambda _, waveform: self.encode(waveform)})()


MARK = Watermark(WatermarkConfig(2, SIZE, "ab" * 16), np.tile(np.arange(SIZE), (2, 1)))


@pytest.fixture(scope="module")
def sound():
  """Twelve seconds of codes, marked between seconds 4 and 8, as audio."""
  rng = np.random.default_rng(0)
  codes = rng.integers(0, SIZE, (600, 2))
  for frame in range(200, 400):
    for candidate in rng.integers(0, SIZE, (3, 2)):
      trial = np.stack([codes[frame - 1], candidate])
      green = is_green(MARK.key[None], MARK.entries(trial).ravel())[0]
      codes[frame] = np.where(green, candidate, codes[frame])
  return ToneCodec().decode(codes[None])[0].astype(np.float32)


@pytest.fixture(scope="module")
def detector():
  return WatermarkDetector(MARK, ToneCodec(), MARK.key)


@pytest.mark.parametrize("cut", [0, 137, 313])
def test_a_mark_is_found_after_a_cut_at_any_sample(detector, sound, cut):
  found = detector.detect(sound[cut:], RATE)
  assert found.p_value == 10**found.log10_p_value < 1e-6
  assert len(found.per_second) == 12
  assert max(found.per_second[5:7]) < 1e-6 < 1e-2 < min(found.per_second[:2])


def test_another_key_and_another_sound_give_no_evidence(detector, sound):
  assert WatermarkDetector(MARK, ToneCodec(), MARK.key + 1).detect(sound, RATE).p_value > 0.01
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
