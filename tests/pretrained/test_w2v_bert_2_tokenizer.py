"""Long clips through a miniature w2v-BERT 2.0; the rest is in test_layer_tokenizer."""

import numpy as np

from audiolm_jax.chunking import plan
from tests.pretrained.conftest import miniature_w2v_bert_2, noise, windowed_like


def test_chunks_of_a_long_clip_are_cut_from_the_features_of_the_whole():
  tokenizer = miniature_w2v_bert_2()
  windowed = windowed_like(tokenizer)
  clip = noise(320 * 130)
  clip[320 * 65 :] /= 10  # so that a chunk's own mean and variance would be others
  inputs, model = tokenizer.inputs_of(clip), windowed.id_model
  found = windowed.features(clip[None])[0]
  for chunk in plan(model, 130):
    row = model.cut(inputs, chunk.start, chunk.size)
    ends = np.array([len(inputs) - chunk.start], np.int32)
    assert ends[0] >= chunk.keep_to - 1
    alone = tokenizer.encode_chunks(row[None], ends).features[0]
    kept = slice(chunk.start + chunk.keep_from, chunk.start + chunk.keep_to)
    np.testing.assert_allclose(
      found[kept], alone[chunk.keep_from : chunk.keep_to], rtol=0, atol=1e-4
    )
