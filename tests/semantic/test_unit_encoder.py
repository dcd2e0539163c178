import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.chunking import plan
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.semantic.unit_encoder import (
  UnitEncoder,
  UnitEncoderConfig,
  UnitTokenizer,
  UnitTokenizerConfig,
)

ENCODER = UnitEncoderConfig(
  features=LogMelConfig(hop_length=320, num_mels=16), dim=16, dilations=(1, 2), kernel_size=5
)


@pytest.fixture(scope="module")
def tokenizer():
  init = jax.jit(UnitEncoder(ENCODER).init)
  params = init(jax.random.key(0), jnp.zeros((1, 8, 16)), jnp.ones((1, 8), bool))["params"]
  rng = np.random.default_rng(0)
  params = {
    "encoder": nn.unbox(params),
    "mean": 0.1 * rng.standard_normal(16).astype(np.float32),
    "scale": rng.uniform(0.5, 2.0, 16).astype(np.float32),
    "centroids": rng.standard_normal((50, 16)).astype(np.float32),
  }
  return UnitTokenizer(UnitTokenizerConfig(ENCODER, num_clusters=50, chunk_steps=60), params)


def test_a_token_for_each_started_40_ms(tokenizer, speechlike):
  assert tokenizer.spec.frame_rate == 25.0
  for samples, steps in [(1, 1), (640, 1), (641, 2), (16_000, 25)]:
    tokens = tokenizer.tokenize(speechlike(samples)[None])
    assert tokens.shape == (1, steps) and tokens.dtype == np.int32
    assert (tokens >= 0).all() and (tokens < 50).all()


def test_chunks_give_the_tokens_of_the_whole_clip(tokenizer, speechlike):
  waveform = speechlike(640 * 200 + 300)
  one_chunk = UnitTokenizer(
    dataclasses.replace(tokenizer.config, chunk_steps=1000), tokenizer.params
  )
  assert len(list(plan(one_chunk.id_model, 201))) == 1 < len(list(plan(tokenizer.id_model, 201)))
  whole = one_chunk.tokenize(waveform[None])[0]
  np.testing.assert_array_equal(tokenizer.tokenize_long(waveform), whole)
  assert len(set(whole)) > 3


def test_rows_of_unequal_length_equal_the_clips_alone(tokenizer, speechlike):
  lengths = np.array([640 * 100, 5_000, 640 * 70 + 1])
  batch = np.stack([speechlike(640 * 100, seed) for seed in range(3)])
  tokens = tokenizer.tokenize(batch, lengths)
  for row, length in enumerate(lengths):
    alone = tokenizer.tokenize(batch[row : row + 1, :length])[0]
    np.testing.assert_array_equal(tokens[row, : len(alone)], alone)
    assert not tokens[row, len(alone) :].any()


def test_a_step_depends_on_its_receptive_field_only(tokenizer, speechlike):
  waveform = speechlike(640 * 40)
  changed = waveform.copy()
  changed[640 * 20 : 640 * 21] = 0.0
  before, after = tokenizer.features(np.stack([waveform, changed]))
  moved = np.flatnonzero(np.abs(before - after).max(axis=1) > 1e-6)
  left, right = ENCODER.receptive_field
  # The window of a frame extends into its neighbours.
  assert 20 - right - 1 <= moved.min() < 20 < moved.max() <= 20 + left + 1


def test_the_last_step_is_the_mean_of_the_frames_it_has(tokenizer, speechlike):
  waveform = speechlike(640 * 10 + 100)
  frames = UnitTokenizer.unclustered(
    dataclasses.replace(ENCODER, frames_per_step=1), tokenizer.params["encoder"]
  ).features(waveform[None])[0]
  steps = UnitTokenizer.unclustered(ENCODER, tokenizer.params["encoder"]).features(waveform[None])
  assert frames.shape == (21, 16) and steps.shape == (1, 11, 16)
  np.testing.assert_allclose(steps[0, :10], frames[:20].reshape(10, 2, 16).mean(1), atol=1e-5)
  np.testing.assert_allclose(steps[0, 10], frames[20], atol=1e-5)


@pytest.mark.parametrize(
  "changes", [{"kernel_size": 4}, {"dilations": ()}, {"dilations": (0,)}, {"frames_per_step": 0}]
)
def test_impossible_shapes_are_rejected(changes):
  with pytest.raises(ConfigError, match=next(iter(changes))):
    dataclasses.replace(ENCODER, **changes)
