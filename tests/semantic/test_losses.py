import jax
import jax.numpy as jnp
import numpy as np

from audiolm_jax.semantic.losses import (
  contrastive_loss,
  diversity_loss,
  id_perplexity,
  prediction_loss,
  span_mask,
)


def test_mask_is_made_of_spans_within_the_valid_steps():
  valid = jnp.arange(200)[None] < jnp.array([[200], [120], [3]])
  mask = np.asarray(span_mask(jax.random.key(0), valid, 0.065, 10))
  assert not (mask & ~np.asarray(valid)).any()
  assert mask.any(axis=1).all()
  edges = np.flatnonzero(np.diff(np.pad(mask[0], 1).astype(int)))
  lengths = edges[1::2] - edges[::2]
  assert (lengths[:-1] >= 10).all()


def test_share_of_masked_steps_is_that_of_the_paper():
  mask = span_mask(jax.random.key(1), jnp.ones((64, 500), bool), 0.065, 10)
  assert abs(float(mask.mean()) - (1 - (1 - 0.065) ** 10)) < 0.02


def contrast(context, targets, masked, num_negatives=100, gap=0):
  return contrastive_loss(context, targets, masked, jax.random.key(0), num_negatives, 0.1, gap)


def test_contrastive_loss_is_low_for_the_right_context_and_high_for_a_wrong_one():
  targets = jax.random.normal(jax.random.key(0), (2, 20, 16))
  masked = jnp.arange(20)[None] < jnp.array([[10], [15]])
  right, accuracy = contrast(targets, targets, masked)
  wrong, none = contrast(jnp.roll(targets, 1, axis=1), targets, masked)
  assert right < 0.2 and accuracy == 1.0
  assert wrong > 5.0 and none < 0.2


def test_negatives_are_masked_steps_of_the_same_item():
  targets = jnp.ones((1, 8, 4))
  masked = jnp.arange(8)[None] < 5
  loss, _ = contrast(targets, targets, masked)
  np.testing.assert_allclose(loss, np.log(5), atol=1e-4)


def test_no_more_negatives_than_asked_for():
  targets = jnp.ones((2, 50, 4))
  loss, _ = contrast(targets, targets, jnp.ones((2, 50), bool), num_negatives=7)
  np.testing.assert_allclose(loss, np.log(8), atol=1e-4)


def test_near_steps_are_no_negatives():
  targets = jnp.ones((1, 10, 4))
  loss, _ = contrast(targets, targets, jnp.ones((1, 10), bool), gap=2)
  others = [sum(abs(t - s) > 2 for s in range(10)) for t in range(10)]
  np.testing.assert_allclose(loss, np.mean(np.log(1 + np.array(others))), atol=1e-4)


def test_prediction_is_measured_on_the_given_steps_only():
  logits = jax.random.normal(jax.random.key(0), (2, 10, 2, 5))
  ids = jax.random.randint(jax.random.key(1), (2, 10, 2), 0, 5)
  where = jnp.zeros((2, 10), bool).at[0, 3].set(True).at[1, 7].set(True)
  loss, accuracy = prediction_loss(logits, ids, where)
  elsewhere = jnp.where(where[..., None, None], logits, 100 * jax.random.normal(jax.random.key(2)))
  assert prediction_loss(elsewhere, ids, where) == (loss, accuracy)
  log_p = jax.nn.log_softmax(logits)
  chosen = [log_p[b, t, g, ids[b, t, g]] for b, t in ((0, 3), (1, 7)) for g in (0, 1)]
  np.testing.assert_allclose(loss, -np.mean(chosen), rtol=1e-5)


def test_diversity_and_perplexity_know_a_collapsed_codebook_from_a_used_one():
  where = jnp.ones((2, 30), bool)
  collapsed = jnp.zeros((2, 30, 1), int)
  used = jnp.arange(60).reshape(2, 30, 1) % 6
  for ids, diversity, perplexity in ((collapsed, 1 - 1 / 6, 1.0), (used, 0.0, 6.0)):
    np.testing.assert_allclose(diversity_loss(jax.nn.one_hot(ids, 6), where), diversity, atol=1e-4)
    np.testing.assert_allclose(id_perplexity(ids, 6, where), perplexity, rtol=1e-4)
