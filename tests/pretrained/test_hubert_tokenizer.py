"""Long clips through a miniature HuBERT; what all such tokenizers do is in test_layer_tokenizer."""

import numpy as np

from audiolm_jax.chunking import plan
from tests.pretrained.conftest import miniature_hubert, noise, windowed_like


def test_each_chunk_of_a_long_clip_is_read_as_a_clip():
  tokenizer = miniature_hubert()
  windowed = windowed_like(tokenizer)
  clip = noise(320 * 120)
  found = windowed.features(clip[None])[0]
  for chunk in plan(windowed.id_model, 120):
    end = (chunk.start + chunk.size - 1) * 320 + 400
    alone = tokenizer.features(clip[None, chunk.start * 320 : end])[0]
    kept = slice(chunk.start + chunk.keep_from, chunk.start + chunk.keep_to)
    np.testing.assert_allclose(
      found[kept], alone[chunk.keep_from : chunk.keep_to], rtol=0, atol=1e-4
    )
  assert not np.allclose(found, tokenizer.features(clip[None])[0], atol=1e-3)
