import numpy as np
import pytest

from audiolm_jax.bundles import load_bundle
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.sliced import SlicedBlocks
from audiolm_jax.io import audio
from audiolm_jax.semantic.resampled import ResampledTokenizer, tokenizer_at
from tests.conftest import melody


@pytest.fixture(scope="module")
def tokenizer():
  return load_bundle("speech", stages=()).semantic


@pytest.fixture(scope="module")
def resampled(tokenizer):
  return tokenizer_at(tokenizer, 24_000)


@pytest.fixture(scope="module")
def clip():
  return audio.resample(melody(1.7), 16_000, 24_000)[:40_001]


def test_tokens_are_those_of_the_resampled_clip_at_the_same_rate_per_second(
  tokenizer, resampled, clip
):
  assert isinstance(resampled, ResampledTokenizer)
  spec = resampled.spec
  assert (spec.sample_rate, spec.hop_length, spec.frame_rate) == (24_000, 960, 25.0)
  whole = np.pad(clip, (0, 42 * 960 - 40_001))
  expected = tokenizer.tokenize_long(audio.resample(whole, 24_000, 16_000))
  assert len(expected) == 42 and len(np.unique(expected)) > 5
  np.testing.assert_array_equal(resampled.tokenize_long(clip), expected)


def test_a_clip_that_is_read_in_slices_is_resampled_in_blocks(resampled, clip, monkeypatch):
  monkeypatch.setattr("audiolm_jax.semantic.resampled._BLOCK_SAMPLES", 3_000)
  asked = []

  class Slices(SlicedBlocks):
    def __getitem__(self, part):
      asked.append(part.stop - part.start)
      return super().__getitem__(part)

  sliced = Slices(lambda: np.array_split(clip, 7), clip.shape)
  np.testing.assert_array_equal(resampled.tokenize_long(sliced), resampled.tokenize_long(clip))
  assert set(asked) == {3_000}


@pytest.mark.parametrize(("samples", "steps"), [(0, 0), (1, 1), (960, 1), (961, 2), (24_000, 25)])
def test_a_token_per_begun_40_ms(resampled, clip, samples, steps):
  assert resampled.tokenize_long(clip[:samples]).shape == (steps,)
  assert resampled.tokenize(clip[None, :samples]).shape == (1, steps)


def test_a_last_sample_that_resampling_would_round_away_begins_a_token(tokenizer, clip):
  assert tokenizer_at(tokenizer, 48_000).tokenize_long(clip[:1921]).shape == (2,)


def test_clips_side_by_side_equal_each_alone(resampled, clip):
  clips = [clip, clip[:25_000], clip[:9_000]]
  alone = [resampled.tokenize_long(c) for c in clips]
  rubbish = np.random.default_rng(0).uniform(-1, 1, (3, len(clip))).astype(np.float32)
  for row, c in zip(rubbish, clips, strict=True):
    row[: len(c)] = c
  lengths = np.array([len(c) for c in clips])
  together = resampled.tokenize_clips(clips, 2)
  for row, batched, ids in zip(resampled.tokenize(rubbish, lengths), together, alone, strict=True):
    np.testing.assert_array_equal(row[: len(ids)], ids)
    assert not row[len(ids) :].any()
    np.testing.assert_array_equal(batched, ids)
  features = resampled.features(rubbish, lengths)
  assert features.shape[:2] == (3, 42) and not features[2, 10:].any()


def test_a_tokenizer_is_wrapped_once_and_comes_back_as_it_was(tokenizer, resampled, clip):
  assert tokenizer_at(tokenizer, 16_000) is tokenizer
  assert tokenizer_at(resampled, 24_000) is resampled
  assert tokenizer_at(tokenizer_at(resampled, 48_000), 16_000) is tokenizer
  with pytest.raises(ConfigError, match="whole number of samples at the 22051 Hz of the codec"):
    tokenizer_at(tokenizer, 22_051)
