import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.chunking import plan
from audiolm_jax.core import configs
from audiolm_jax.semantic.conformer import ConformerEncoder
from audiolm_jax.semantic.features import log_mel
from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig, _encode


@pytest.fixture
def tokenizer(encoder_config):
  config = SemanticTokenizerConfig(encoder_config, layer=2, num_clusters=50, chunk_steps=60)
  encoder = encoder_config.truncated(2)
  params = ConformerEncoder(encoder).init(
    jax.random.key(0), jnp.zeros((1, 16, encoder.features.num_mels)), jnp.ones((1, 4), bool)
  )["params"]
  rng = np.random.default_rng(0)
  return SemanticTokenizer(
    config,
    {
      "encoder": nn.unbox(params),
      "mean": rng.standard_normal(encoder.dim).astype(np.float32),
      "scale": rng.uniform(0.5, 2.0, encoder.dim).astype(np.float32),
      "centroids": rng.standard_normal((50, encoder.dim)).astype(np.float32),
    },
  )


def test_a_token_per_begun_40_ms(tokenizer, speechlike):
  assert tokenizer.spec.frame_rate == 25.0
  for samples, steps in [(1, 1), (640, 1), (641, 2), (16_000, 25)]:
    tokens = tokenizer.tokenize(speechlike(samples)[None])
    assert tokens.shape == (1, steps) and tokens.dtype == np.int32
    assert (tokens >= 0).all() and (tokens < 50).all()
  assert tokenizer.tokenize(np.zeros((2, 0), np.float32)).shape == (2, 0)


def test_features_of_windows_equal_those_of_the_encoder_in_one_go(tokenizer, speechlike):
  waveform = speechlike(640 * 150 + 77)
  config = tokenizer.config
  encoder = config.encoder.truncated(config.layer)
  mel = log_mel(jnp.asarray(waveform)[None], encoder.features)
  valid = jnp.ones((1, mel.shape[1] // 4), bool)
  whole = ConformerEncoder(encoder).apply({"params": tokenizer.params["encoder"]}, mel, valid)
  expected = (whole - tokenizer.params["mean"]) / tokenizer.params["scale"]
  assert len(list(plan(tokenizer.id_model, 151))) == 3
  np.testing.assert_allclose(tokenizer.features(waveform[None]), expected, atol=1e-4)


def test_chunked_tokens_equal_whole_file_tokens(tokenizer, speechlike):
  waveform = speechlike(640 * 200 + 300)
  one_chunk = SemanticTokenizer(
    dataclasses.replace(tokenizer.config, chunk_steps=1000), tokenizer.params
  )
  assert len(list(plan(one_chunk.id_model, 201))) == 1
  whole = one_chunk.tokenize(waveform[None])[0]
  np.testing.assert_array_equal(tokenizer.tokenize_long(waveform), whole)
  np.testing.assert_array_equal(tokenizer.tokenize(waveform[None])[0], whole)
  assert len(set(whole)) > 5


def test_batched_equals_one_by_one_with_unequal_lengths(tokenizer, speechlike):
  lengths = np.array([640 * 100, 5_000, 640 * 70 + 1])
  batch = np.stack([speechlike(640 * 100, seed) for seed in range(3)])
  tokens = tokenizer.tokenize(batch, lengths)
  features = tokenizer.features(batch, lengths)
  for row, length in enumerate(lengths):
    alone = tokenizer.tokenize(batch[row : row + 1, :length])[0]
    np.testing.assert_array_equal(tokens[row, : len(alone)], alone)
    assert not tokens[row, len(alone) :].any()
    assert not features[row, len(alone) :].any()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_tokens_of_clips_side_by_side_equal_tokens_one_by_one(tokenizer, speechlike, batch_size):
  lengths = [640 * 300 + 9, 1, 5_000, 640 * 70, 16_000, 640 * 200]
  clips = [speechlike(length, seed) for seed, length in enumerate(lengths)]
  assert len(list(plan(tokenizer.id_model, 301))) > 2
  together = tokenizer.tokenize_clips(clips, batch_size)
  for clip, tokens in zip(clips, together, strict=True):
    np.testing.assert_array_equal(tokens, tokenizer.tokenize_long(clip))
  assert tokenizer.tokenize_clips([], batch_size) == []


def test_ids_are_of_the_nearest_centroid(tokenizer, speechlike):
  waveform = speechlike(20_000)[None]
  features = tokenizer.features(waveform).astype(np.float64)
  distance = ((features[0, :, None] - np.asarray(tokenizer.params["centroids"])) ** 2).sum(-1)
  np.testing.assert_array_equal(tokenizer.tokenize(waveform)[0], distance.argmin(-1))


def test_chunks_are_of_one_size_and_short_clips_of_powers_of_two(tokenizer):
  field, largest = tokenizer.config.receptive_field, tokenizer.config.window_steps
  model = tokenizer.id_model
  assert (model.left, model.right) == tuple(field) and largest == 60 + sum(field)
  sizes = [{chunk.size for chunk in plan(model, steps)} for steps in (1, 64, 65, largest, 500)]
  assert sizes == [{64}, {64}, {largest}, {largest}, {largest}]


def test_any_length_compiles_a_handful_of_shapes(tokenizer, speechlike):
  _encode.clear_cache()
  for samples in np.random.default_rng(0).integers(1, 640 * 400, 12):
    tokenizer.tokenize_long(speechlike(int(samples)))
  assert _encode._cache_size() <= 2


def test_configuration_survives_json(tokenizer):
  values = configs.to_dict(tokenizer.config)
  assert configs.from_dict(SemanticTokenizerConfig, values) == tokenizer.config
