"""Tokens of a miniature w2v-BERT 2.0: those of the reference's features, however a clip comes."""

import numpy as np
import pytest

from audiolm_jax.errors import ConfigError
from audiolm_jax.pretrained import w2v_bert_2_tokenizer
from audiolm_jax.pretrained.w2v_bert_2_tokenizer import W2vBert2Tokenizer, W2vBert2TokenizerConfig
from audiolm_jax.pretrained.weights import read_published
from audiolm_jax.semantic.windowed_tokenizer import plan_windows
from tests.pretrained.conftest import GOLDEN, miniature_w2v_bert_2, nearest


@pytest.fixture(scope="module")
def expected():
  with np.load(GOLDEN / "w2v_bert_2" / "expected.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def tokenizer():
  return miniature_w2v_bert_2()


@pytest.fixture(scope="module")
def windowed(tokenizer):
  """The same with windows of 64 steps, of which 32 are kept: one size for all lengths."""
  config = tokenizer.config
  settings = (config.encoder, config.layer, config.num_clusters, 64, 16)
  return W2vBert2Tokenizer(W2vBert2TokenizerConfig(*settings), tokenizer.params)


def noise(samples, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def test_tokens_are_the_centroids_nearest_to_the_reference_and_the_last_is_held(
  tokenizer, expected
):
  for i in (0, 1):
    clip = expected[f"waveform_{i}"].astype(np.float32)
    reference = nearest(expected[f"layer_2_{i}"], np.asarray(tokenizer.params["centroids"]))
    tokens = tokenizer.tokenize_long(clip)
    assert len(tokens) == -(-len(clip) // 320) and tokens.dtype == np.int32
    assert len(tokens) - len(reference) in (1, 2) and len(set(reference.tolist())) > 4
    np.testing.assert_array_equal(tokens[: len(reference)], reference)
    assert (tokens[len(reference) :] == reference[-1]).all()


def test_a_token_per_begun_20_ms(tokenizer):
  spec = tokenizer.spec
  assert (spec.sample_rate, spec.hop_length, spec.frame_rate) == (16_000, 320, 50.0)
  for samples, steps in ((0, 0), (1, 1), (320, 1), (321, 2), (560, 2), (721, 3)):
    tokens = tokenizer.tokenize_long(noise(samples))
    assert tokens.shape == (steps,)
    assert (tokens < spec.num_clusters).all()
  assert tokenizer.tokenize(np.zeros((2, 0), np.float32)).shape == (2, 0)


def test_clips_of_unequal_lengths_side_by_side_equal_each_alone(windowed):
  lengths = [320 * 130 + 9, 1, 5_000, 320 * 70, 559]
  clips = [noise(length, seed) for seed, length in enumerate(lengths)]
  alone = [windowed.tokenize_long(clip) for clip in clips]
  assert len(plan_windows(len(alone[0]), windowed.config)) == 4
  for found, single in zip(windowed.tokenize_clips(clips, 2), alone, strict=True):
    np.testing.assert_array_equal(found, single)
  rows = np.stack([noise(max(lengths), 9)] * len(clips))
  for row, clip in zip(rows, clips, strict=True):
    row[: len(clip)] = clip
  for row, single in zip(windowed.tokenize(rows, np.array(lengths)), alone, strict=True):
    np.testing.assert_array_equal(row[: len(single)], single)
    assert not row[len(single) :].any()


def test_windows_of_a_long_clip_are_cut_from_the_features_of_the_whole(windowed, tokenizer):
  clip = noise(320 * 130)
  clip[320 * 65 :] /= 10  # so that a window's own mean and variance would be others
  heard = tokenizer.clip_input(clip)
  found = windowed.features(clip[None])[0]
  for window in plan_windows(130, windowed.config):
    row, valid = tokenizer.window_input(heard, window)
    np.testing.assert_array_equal(row[:valid], heard[window.start : window.start + window.size])
    assert not row[valid:].any() and valid >= window.keep_to - 1
    alone = tokenizer.encode_windows(row[None], np.array([valid], np.int32)).features[0]
    kept = slice(window.start + window.keep_from, window.start + window.keep_to)
    np.testing.assert_allclose(
      found[kept], alone[window.keep_from : window.keep_to], rtol=0, atol=1e-4
    )


def test_settings_that_do_not_fit_are_named():
  published = read_published(GOLDEN / "w2v_bert_2")
  for layer, dim, words in (
    (0, 16, "layer 0 is none of the model's blocks 1 to 3"),
    (4, 16, "layer 4 is none"),
    (2, 17, "the centroids have 17 dimensions, the model's features 16"),
  ):
    with pytest.raises(ConfigError, match=words):
      w2v_bert_2_tokenizer.convert(
        published.config, published.weights, layer=layer, centroids=np.zeros((5, dim), np.float32)
      )
