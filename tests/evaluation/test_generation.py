import numpy as np

from audiolm_jax.evaluation import generation


def test_shuffled_units_keep_the_length_and_depend_on_the_seed(miniature_bundle, voice):
  sound = voice(150, 800, seed=3, seconds=2)
  prompt, rest = sound[:16_000], sound[16_000:]
  shuffle = generation.shuffler(miniature_bundle)
  assert shuffle is not None
  made = shuffle(prompt, rest, 1)
  assert made.shape == rest.shape and np.isfinite(made).all() and np.any(made)
  np.testing.assert_array_equal(shuffle(prompt, rest, 1), made)
  assert not np.array_equal(shuffle(prompt, rest, 2), made)


def test_without_semantic_tokens_nothing_is_shuffled(miniature_bundle, monkeypatch):
  monkeypatch.setattr(type(miniature_bundle.cascade), "reads", lambda self, key: False)
  assert generation.shuffler(miniature_bundle) is None
