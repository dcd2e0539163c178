"""A codec that makes fewer frames than there are semantic tokens, as Mimi does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.lm import stages
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.transformer import Transformer
from tests.conftest import melody


@pytest.fixture(scope="module")
def slow_bundle(miniature_bundle):
  """Two semantic tokens for each frame of 80 ms."""
  key = jax.random.key(0)
  c = dataclasses.replace(miniature_bundle.codec.config, strides=(4, 5, 8, 8))
  waveform = np.zeros((1, 2 * 1280), np.float32)
  params = meta.unbox(jax.jit(c.init_params)(jnp.stack([key, key]), waveform))
  books = jax.random.normal(key, (c.num_quantizers, c.codebook_size, c.latent_dim))
  spec = stages.coarse_stage(
    num_target_quantizers=2, num_clusters=16, codebook_size=16, crop_seconds=1.6, frame_rate=12.5
  )
  config = miniature_bundle.stages["coarse"].config
  tokens = np.zeros((1, 4), np.int32)
  init = meta.unbox(jax.jit(Transformer(config, spec.layout.vocab_size).init)(key, tokens))
  return dataclasses.replace(
    miniature_bundle,
    codec=ResidualCodec(c, params | {"codebooks": books}),
    stages={"coarse": Stage(spec, config, init["params"])},
    detector=None,
  )


def test_a_clip_that_ends_early_in_a_frame_is_resynthesized(slow_bundle):
  samples = 8 * 1280 + 300  # half a token into the ninth frame
  made = slow_bundle.continue_audio(melody(1.0)[:samples], 16_000, mode="resynthesis")
  assert len(made.waveform) == samples and made.tokens.codes.shape == (9, 2)
