"""Long clips through a miniature HuBERT; what all such tokenizers do is in test_layer_tokenizer."""

import numpy as np

from audiolm_jax.semantic.windowed_tokenizer import plan_windows
from tests.pretrained.conftest import miniature_hubert, noise, windowed_like


def test_each_window_of_a_long_clip_is_heard_as_a_clip():
  tokenizer = miniature_hubert()
  windowed = windowed_like(tokenizer)
  clip = noise(320 * 120)
  windows = plan_windows(120, windowed.config)
  found = windowed.features(clip[None])[0]
  for window in windows:
    end = (window.start + window.size - 1) * 320 + 400
    alone = tokenizer.features(clip[None, window.start * 320 : end])[0]
    kept = slice(window.start + window.keep_from, window.start + window.keep_to)
    np.testing.assert_allclose(
      found[kept], alone[window.keep_from : window.keep_to], rtol=0, atol=1e-4
    )
  assert not np.allclose(found, tokenizer.features(clip[None])[0], atol=1e-3)
