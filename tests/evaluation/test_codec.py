import numpy as np
import pytest

from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.evaluation import codec as evaluation
from audiolm_jax.evaluation import signal
from audiolm_jax.evaluation.codec import BITS_PER_SECOND, LOG_MEL, PESQ_WB, SI_SDR, STOI
from tests.partial_codec import PartialCodec


def clips():
  rng = np.random.default_rng(0)
  return [rng.uniform(-0.9, 0.9, n).astype(np.float32) for n in (20_000, 33_000, 40_001)]


def speech_like():
  t = np.arange(32_000) / 16_000
  voice = sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 25))
  return (0.2 * voice * (np.sin(2 * np.pi * 2 * t) > 0)).astype(np.float32)


def test_more_levels_are_nearer_and_the_report_has_every_metric(pulse_codec):
  report = evaluation.evaluate_codec(pulse_codec, clips(), [1, 2], speech=False)
  assert list(report.levels) == [1, 2]
  assert set(report.levels[2]) == {LOG_MEL, SI_SDR, BITS_PER_SECOND}
  assert report.levels[1][LOG_MEL].value > report.levels[2][LOG_MEL].value
  assert report.levels[2][SI_SDR].value > 40
  assert report.levels[1][SI_SDR].value == pytest.approx(
    np.mean([row[1][SI_SDR] for row in report.clips])
  )
  assert report.levels[1][BITS_PER_SECOND].value == 64_000
  assert report.num_frames == 93_001


def test_clips_are_encoded_at_their_own_length(pulse_codec):
  evaluation.evaluate_codec(pulse_codec, clips(), [1, 2], speech=False)
  assert pulse_codec.lengths == {(1, len(clip)) for clip in clips()}


def test_speech_metrics_are_added_for_speech(pulse_codec):
  report = evaluation.evaluate_codec(pulse_codec, [speech_like()], [2])
  assert report.levels[2][STOI].value > 0.95
  assert (PESQ_WB in report.levels[2]) == signal.pesq_installed()


def test_pesq_is_added_if_it_is_installed(pulse_codec):
  pytest.importorskip("pesq")
  report = evaluation.evaluate_codec(pulse_codec, [speech_like()], [2])
  assert report.levels[2][PESQ_WB].value > 1.5


def test_perplexity_of_even_use_is_the_size_and_of_one_code_is_one():
  assert evaluation.code_perplexity(np.full(64, 7)) == pytest.approx(64)
  assert evaluation.code_perplexity(np.array([0, 9, 0])) == 1
  use = evaluation.codebook_use(np.array([[5, 5, 0, 0], [5, 5, 0, 0]]))
  assert use.perplexity.value == pytest.approx(2)
  assert (use.share.value, use.used) == (pytest.approx(0.5), 0.5)


def test_no_clips_and_impossible_levels_are_refused(pulse_codec):
  with pytest.raises(ValueError, match="no clips"):
    evaluation.evaluate_codec(pulse_codec, [], [1])
  with pytest.raises(ValueError, match=r"levels \[3\]"):
    evaluation.evaluate_codec(pulse_codec, clips(), [3])


class FrameCodec(PartialCodec):
  """Codes the mean of each frame of four samples in two levels, and decodes to steps."""

  spec = CodecSpec(sample_rate=16_000, hop_length=4, num_quantizers=2, codebook_size=10)
  codebooks = np.zeros((2, 10, 1), np.float32)

  def encode_long(self, waveform):
    means = np.pad(waveform, (0, -len(waveform) % 4)).reshape(-1, 4).mean(axis=1)
    fine = np.round(means * 100).astype(np.int32)
    return np.stack([fine // 10, fine % 10], axis=-1)

  def decode(self, codes):
    return np.repeat((10 * codes[..., 0] + codes[..., 1]) / 100, 4, axis=-1).astype(np.float32)


def test_codes_are_kept_where_they_are_encoded_again_in_the_same_frames():
  # Half a frame later each mean is that of two neighbours: 0.25, then 0.50 twice, then 0.53.
  codes = np.array([[5, 0], [5, 0], [5, 0], [5, 6]])
  kept = evaluation.kept_codes(FrameCodec(), codes, 16)
  np.testing.assert_array_equal(kept, [[1, 1], [3 / 4, 2 / 4]])
  np.testing.assert_array_equal(evaluation.kept_codes(FrameCodec(), codes, 14)[0], [3 / 4, 3 / 4])


def test_each_decoded_clip_is_passed_on_with_its_number_of_levels(pulse_codec):
  given = []
  sounds = clips()[:2]
  evaluation.evaluate_codec(
    pulse_codec, sounds, [1, 2], speech=False, on_decoded=lambda *decoded: given.append(decoded)
  )
  assert [(count, len(sound)) for count, sound in given] == [
    (count, len(sound)) for sound in sounds for count in (1, 2)
  ]
  np.testing.assert_allclose(given[1][1], sounds[0], atol=0.01)
