"""Temperature, top-k and top-p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.sampling.logits import SamplingOptions, draw, keep_top_k, keep_top_p

LOGITS = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3], [0.4, 0.3, 0.2, 0.1]]))


def kept(logits):
  return np.isfinite(np.asarray(logits)).tolist()


def shares(options: SamplingOptions, count: int = 20_000):
  """How often each index of the first row is drawn."""
  keys = jax.random.split(jax.random.key(0), count)
  rows = jnp.broadcast_to(LOGITS[0], (count, 4))
  return np.bincount(jax.jit(draw)(rows, keys, options.controls), minlength=4) / count


def test_top_k_keeps_the_k_largest_of_each_row():
  assert kept(keep_top_k(LOGITS, 2)) == [[False, True, False, True], [True, True, False, False]]
  assert kept(keep_top_k(LOGITS, 99)) == [[True] * 4] * 2


def test_top_p_keeps_the_smallest_set_that_reaches_p():
  assert kept(keep_top_p(LOGITS, 0.6)) == [[False, True, False, True], [True, True, False, False]]
  assert kept(keep_top_p(LOGITS, 0.75)) == [[False, True, False, True], [True, True, True, False]]
  assert kept(keep_top_p(LOGITS, 1e-6)) == [[False, True, False, False], [True] + [False] * 3]


@pytest.mark.parametrize("seed", range(3))
def test_the_kept_logits_are_those_of_a_sorted_row(seed):
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 4, (3, 200)).astype(np.float32)
  logits[0, :20] = logits[0, 20]  # ties
  logits[1, ::3] = -np.inf
  logits[2, :50] = np.array([0.0, -0.0] * 25)
  largest_first = -np.sort(-logits, axis=-1)
  for k in (1, 7, 150, 200):
    expected = logits >= largest_first[:, k - 1 : k]
    np.testing.assert_array_equal(keep_top_k(logits, k), np.where(expected, logits, -np.inf))  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  exponent = np.exp(largest_first.astype(np.float64) - largest_first[:, :1])
  before = np.cumsum(exponent, axis=-1) - exponent
  for p in (0.03, 0.51, 0.97):
    threshold = np.where(before < p * exponent.sum(-1, keepdims=True), largest_first, np.inf)
    expected = logits >= threshold.min(-1, keepdims=True)
    np.testing.assert_array_equal(keep_top_p(logits, p), np.where(expected, logits, -np.inf))  # pyright: ignore[reportArgumentType]: NumPy arrays serve


def test_draws_follow_the_softmax_at_the_temperature():
  np.testing.assert_allclose(shares(SamplingOptions()), [0.05, 0.5, 0.15, 0.3], atol=0.015)
  sharper = np.array([0.05, 0.5, 0.15, 0.3]) ** 2
  expected = sharper / sharper.sum()
  np.testing.assert_allclose(shares(SamplingOptions(temperature=0.5)), expected, atol=0.015)


def test_temperature_zero_takes_the_likeliest():
  assert shares(SamplingOptions(temperature=0.0), 100)[1] == 1
  assert shares(SamplingOptions(temperature=0.0, top_k=3, top_p=0.9), 100)[1] == 1


def test_top_k_and_top_p_restrict_the_draws():
  np.testing.assert_allclose(shares(SamplingOptions(top_k=2)), [0, 0.625, 0, 0.375], atol=0.015)
  np.testing.assert_allclose(shares(SamplingOptions(top_p=0.7)), [0, 0.625, 0, 0.375], atol=0.015)


def test_a_row_is_drawn_alike_in_any_company():
  keys = jax.random.split(jax.random.key(0), 2)
  controls = SamplingOptions().controls
  both = draw(LOGITS, keys, controls)
  assert both[1:].tolist() == draw(LOGITS[1:], keys[1:], controls).tolist()


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"temperature": -1.0}, "temperature is -1.0"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_k": -1}, "top_k is -1"),
    ({"top_p": 0.0}, "top_p is 0"),
    ({"top_p": 1.5}, "top_p is 1.5"),
  ],
)
def test_unusable_options_are_refused(values, message):
  with pytest.raises(UserError, match=message):
    SamplingOptions(**values)
