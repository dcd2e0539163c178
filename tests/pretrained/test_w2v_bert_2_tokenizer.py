"""Long clips through a miniature w2v-BERT 2.0; the rest is in test_layer_tokenizer."""

import numpy as np

from audiolm_jax.semantic.windowed_tokenizer import plan_windows
from tests.pretrained.conftest import miniature_w2v_bert_2, noise, windowed_like


def test_windows_of_a_long_clip_are_cut_from_the_features_of_the_whole():
  tokenizer = miniature_w2v_bert_2()
  windowed = windowed_like(tokenizer)
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
