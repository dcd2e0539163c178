import math

import numpy as np
import pytest

from audiolm_jax.detection import green_list, watermark_detector
from audiolm_jax.detection.evidence import Evidence, Match
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig, payload_words
from audiolm_jax.detection.watermark_detector import WatermarkDetector, offset_codes, payload_of
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
  assert found.p_value == 10**found.log10_p_value < 1e-6 and found.payload is None
  assert len(found.per_second) == 12
  assert max(found.per_second[5:7]) < 1e-6 < 1e-2 < min(found.per_second[:2])


def test_another_key_and_another_sound_give_no_evidence(detector, sound):
  assert WatermarkDetector(MARK, CODEC, MARK.key + 1).detect(sound, RATE).p_value > 0.01
  assert detector.detect(melody(5.0), RATE).p_value > 0.01
  assert detector.detect(sound[:100], RATE) == (0.0, [], None)


def test_a_payload_is_read_after_a_cut_and_has_no_mark_of_other_keys(detector):
  sound = sound_of(marked_codes(600, 250, 600, payload=b"\xc3"))
  found = detector.detect(sound[137:], RATE)
  assert found.p_value < 1e-6 and found.payload.content == b"\xc3"
  assert len(found.payload.confidence) == 8 and math.prod(found.payload.confidence) > 0.99
  assert max(found.per_second[8:]) < 1e-3 < 1e-2 < min(found.per_second[:3])
  assert WatermarkDetector(MARK, CODEC, MARK.key + 1).detect(sound, RATE).p_value > 0.01


def simulated(payload, clips, frames, survival, levels=4, size=48):
  """Returns a mark, codes that a sampler with a bias of 2 draws, of which some are confused."""
  mark = Watermark(WatermarkConfig(levels, size, "5a" * 16), np.tile(np.arange(size), (levels, 1)))
  rng, key = np.random.default_rng(0), list(mark.key)
  communities = np.broadcast_to(np.arange(size, dtype=np.uint32), (clips, levels, size))
  each_level = np.arange(levels, dtype=np.uint32)[:, None]
  codes = np.zeros((clips, frames, levels), np.int64)
  for frame in range(1, frames):
    before = codes[:, frame - 1, :, None].astype(np.uint32)
    low, high = green_list.counters(each_level, [before], communities)
    green = green_list.is_green(key, low, high, *payload_words(payload))
    logits = np.log(rng.dirichlet(np.full(size, 0.1), (clips, levels)) + 1e-12)
    codes[:, frame] = (logits + 2 * green + rng.gumbel(size=green.shape)).argmax(axis=-1)
  other = rng.integers(0, size, codes.shape)
  return mark, np.where(rng.random(codes.shape) < survival, codes, other)


@pytest.mark.parametrize(
  ("payload", "clips", "seconds", "survival"),
  [(b"\x5e", 40, 8, 0.6), (b"\x01\x80\xf3\x9c", 20, 30, 0.75)],
)
def test_payloads_are_exact_in_95_percent_of_clips_where_enough_codes_survive(
  payload, clips, seconds, survival
):
  mark, codes = simulated(payload, clips, seconds * 50, survival)
  read = []
  for one in codes:
    evidence = Evidence(mark, mark.key[None], 50.0, 1)
    evidence.push(one[None])
    read.append(payload_of(evidence.finish().best))
  exact = [found is not None and found.content == payload for found in read]
  assert np.mean(exact) >= 0.95
  assert np.mean([math.prod(found.confidence) for found in read if found]) > 0.95


def test_the_confidence_of_bits_is_that_of_their_votes():
  votes = np.zeros((3, 1, 32), np.int64)
  votes[1, 0, :8] = [3, -9, 0, 20, -20, 20, -20, 20]
  entries = np.full((3, 1), 160)
  log10_p = np.array([[-1.0], [-20.0], [-10.0]])
  found = payload_of(Match(log10_p, entries, votes))
  assert found is not None and found.content == bytes([0b10101001])
  share = (160 + 112 + 1) / 2 / 161
  expected = [share**n / (share**n + (1 - share) ** n) for n in (20, 20, 20, 20, 20, 0, 9, 3)]
  np.testing.assert_allclose(found.confidence, expected)
  assert payload_of(Match(log10_p[[1, 0, 2]], entries, votes)) is None


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
