import itertools

import jax
import jax.numpy as jnp
import numpy as np

from audiolm_jax.codec.quantizer import (
  beam_quantize,
  dequantize,
  kmeans_start,
  nearest,
  quantize_train,
  residual_quantize,
)


def _clusters(vectors=512, size=8, dim=4, spread=0.01):
  centres = jax.random.normal(jax.random.key(0), (size, dim)) * 3
  label = jax.random.randint(jax.random.key(1), (vectors,), 0, size)
  noise = spread * jax.random.normal(jax.random.key(2), (vectors, dim))
  return centres, centres[label] + noise


def _train(x, state, levels=None, restart_share=0.0, decay=0.9):
  levels = jnp.full((x.shape[0],), state.codebooks.shape[0]) if levels is None else levels
  return quantize_train(
    x, state, levels, jax.random.key(3), decay=decay, restart_share=restart_share
  )


def test_nearest_is_the_brute_force_nearest():
  x = jax.random.normal(jax.random.key(0), (50, 6))
  book = jax.random.normal(jax.random.key(1), (20, 6))
  brute = np.argmin(np.linalg.norm(np.asarray(x)[:, None] - np.asarray(book), axis=-1), axis=-1)
  np.testing.assert_array_equal(nearest(x, book), brute)


def test_a_beam_search_keeps_the_best_sequences():
  x = jax.random.normal(jax.random.key(0), (3, 20, 4))
  books = jax.random.normal(jax.random.key(1), (3, 5, 4)) / jnp.array([1, 2, 4])[:, None, None]

  def errors(codes):
    return np.linalg.norm(np.asarray(dequantize(codes, books) - x), axis=-1)

  greedy = residual_quantize(x, books)
  np.testing.assert_array_equal(beam_quantize(x, books, 1), greedy)
  every = jnp.array(list(itertools.product(range(5), repeat=3)))
  sums = dequantize(every, books)
  best = every[jnp.argmin(jnp.linalg.norm(x[..., None, :] - sums, axis=-1), axis=-1)]
  # 25 sequences of two levels are all, so that nothing is lost.
  np.testing.assert_array_equal(beam_quantize(x, books, 25), best)
  few = errors(beam_quantize(x, books, 4))
  assert errors(best).mean() <= few.mean() < errors(greedy).mean()
  # More sequences than one level has entries.
  assert errors(beam_quantize(x, books, 7)).mean() <= few.mean() + 1e-6


def test_the_first_codes_do_not_depend_on_later_levels():
  x = jax.random.normal(jax.random.key(0), (2, 9, 4))
  books = jax.random.normal(jax.random.key(1), (4, 8, 4))
  np.testing.assert_array_equal(
    residual_quantize(x, books)[..., :2], residual_quantize(x, books[:2])
  )


def test_more_levels_bring_the_sum_nearer():
  _, x = _clusters(spread=0.5)
  state = kmeans_start(x, 4, 8, jax.random.key(4))
  codes = residual_quantize(x, state.codebooks)
  errors = [
    float(jnp.mean(jnp.square(x - dequantize(codes[:, :k], state.codebooks)))) for k in range(1, 5)
  ]
  assert all(b < a for a, b in itertools.pairwise(errors))


def test_kmeans_start_finds_separated_clusters():
  centres, x = _clusters()
  state = kmeans_start(x, 1, 32, jax.random.key(5))
  distance = jnp.min(jnp.linalg.norm(centres[:, None] - state.codebooks[0], axis=-1), axis=1)
  assert float(distance.max()) < 0.05


def test_kmeans_start_copes_with_fewer_vectors_than_entries():
  x = jax.random.normal(jax.random.key(0), (5, 4))
  state = kmeans_start(x, 2, 16, jax.random.key(1))
  assert state.codebooks.shape == (2, 16, 4) and bool(jnp.all(jnp.isfinite(state.codebooks)))
  np.testing.assert_allclose(
    dequantize(residual_quantize(x, state.codebooks), state.codebooks), x, atol=0.02
  )


def test_straight_through_gradient_is_the_identity():
  _, x = _clusters(vectors=32)
  state = kmeans_start(x, 2, 8, jax.random.key(0))
  x = x.reshape(2, 16, 4)
  weights = jax.random.normal(jax.random.key(9), x.shape)
  gradient = jax.grad(lambda x: jnp.sum(_train(x, state)[0] * weights))(x)
  np.testing.assert_allclose(gradient, weights, rtol=1e-5)


def test_quantized_output_equals_codes_looked_up():
  _, x = _clusters(vectors=32, spread=0.4)
  state = kmeans_start(x, 3, 8, jax.random.key(0))
  x = x.reshape(2, 16, 4)
  expected = dequantize(residual_quantize(x, state.codebooks), state.codebooks)
  np.testing.assert_allclose(_train(x, state)[0], expected, atol=1e-5)


def test_quantizer_dropout_uses_only_the_drawn_levels():
  _, x = _clusters(vectors=32, spread=0.4)
  state = kmeans_start(x, 3, 8, jax.random.key(0))
  x = x.reshape(2, 16, 4)
  quantized, *_ = _train(x, state, levels=jnp.array([1, 2]))
  codes = residual_quantize(x, state.codebooks)
  np.testing.assert_allclose(quantized[0], dequantize(codes[0, :, :1], state.codebooks), atol=1e-5)
  np.testing.assert_allclose(quantized[1], dequantize(codes[1, :, :2], state.codebooks), atol=1e-5)


def test_levels_no_example_uses_keep_their_codebooks():
  _, x = _clusters(vectors=32, spread=0.4)
  state = kmeans_start(x, 3, 8, jax.random.key(0))
  _, _, new, _ = _train(x.reshape(2, 16, 4), state, levels=jnp.array([1, 1]))
  np.testing.assert_allclose(new.sums[2], state.sums[2])
  np.testing.assert_allclose(new.codebooks[2], state.codebooks[2], atol=1e-4)


def test_moving_average_codebooks_converge_to_the_cluster_means():
  _centres, x = _clusters()
  state = kmeans_start(x + 0.5, 1, 8, jax.random.key(1))
  for _ in range(80):
    _, _, state, _ = _train(x[None], state)
  codes = residual_quantize(x, state.codebooks)
  error = jnp.mean(jnp.square(x - dequantize(codes, state.codebooks)))
  means = jnp.stack([x[codes[:, 0] == k].mean(0) for k in np.unique(codes)])
  used = state.codebooks[0][np.unique(codes)]
  np.testing.assert_allclose(used, means, atol=0.02)
  assert float(error) < float(jnp.var(x))


def test_a_dead_code_is_restarted_at_a_vector_of_the_batch():
  _, x = _clusters(vectors=64)
  state = kmeans_start(x, 1, 8, jax.random.key(0))
  far = state.replace(  # pyright: ignore[reportAttributeAccessIssue]: flax.struct adds it
    codebooks=state.codebooks.at[0, 3].set(1e3), counts=state.counts.at[0, 3].set(0.0)
  )
  _, _, new, aux = _train(x[None], far, restart_share=0.1)
  assert bool(aux["restarted"][0, 3]) and int(aux["dead"][0]) >= 1
  assert float(jnp.min(jnp.linalg.norm(x - new.codebooks[0, 3], axis=-1))) < 1e-5


def test_perplexity_of_even_use_is_the_codebook_size():
  book = jnp.eye(8)[None]
  x = jnp.tile(jnp.eye(8), (4, 1))[None]
  state = kmeans_start(x[0], 1, 8, jax.random.key(0)).replace(codebooks=book)  # pyright: ignore[reportAttributeAccessIssue]: flax.struct adds it
  _, _, _, aux = _train(x, state)
  np.testing.assert_allclose(aux["perplexity"][0], 8.0, rtol=0.05)
