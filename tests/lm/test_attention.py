"""Positions and attention, against their plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.lm.attention import (
  MASKED,
  KeyValues,
  bias_blocks,
  cached_attention,
  causal_attention,
  relative_buckets,
  rotate,
)


def test_buckets_are_t5s():
  # Values of the reference formula at 32 buckets and distance 128: exact to 15, then logarithmic.
  buckets = relative_buckets(1000, 32, 128)
  assert buckets[:16].tolist() == list(range(16))
  assert buckets[[16, 18, 19, 32, 64, 112, 113, 127, 128, 999]].tolist() == [
    *[16, 16, 17, 21, 26, 30, 31, 31, 31, 31]
  ]
  assert (np.diff(buckets) >= 0).all()


@pytest.mark.parametrize(("length", "block"), [(7, 7), (7, 3), (8, 4), (5, 1), (5, 64)])
def test_bias_blocks_hold_the_bias_of_each_distance(length, block):
  bias = jax.random.normal(jax.random.key(0), (2, length))
  rows = [np.asarray(b)[0] for b in bias_blocks(bias[None], block)]
  start = 0
  for matrix in rows:
    for i in range(matrix.shape[1]):
      for j in range(matrix.shape[2]):
        distance = start + i - j
        expected = np.asarray(bias[:, distance]) if distance >= 0 else MASKED
        np.testing.assert_array_equal(matrix[:, i, j], expected)
    start += matrix.shape[1]
  assert start == length


def plain_attention(query, keys, values, bias):
  """One head per key head, no blocks, no cache."""
  length = query.shape[1]
  group = query.shape[3]
  keys, values = (np.repeat(np.asarray(a), group, axis=1) for a in (keys, values))
  query = np.asarray(query).reshape(*query.shape[:2], -1, query.shape[-1])
  logits = np.einsum("bqhd,bhkd->bhqk", query, keys) * query.shape[-1] ** -0.5
  for i in range(length):
    for j in range(length):
      logits[:, :, i, j] = logits[:, :, i, j] + bias[:, i - j] if i >= j else -np.inf
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhqk,bhkd->bqhd", weights, values)


def random_inputs(length=7, kv_heads=2, group=3, head_dim=4):
  keys = jax.random.split(jax.random.key(1), 4)
  query = jax.random.normal(keys[0], (2, length, kv_heads, group, head_dim))
  key_values = KeyValues(
    *(jax.random.normal(k, (2, kv_heads, length, head_dim)) for k in keys[1:3])
  )
  bias = jax.random.normal(keys[3], (kv_heads * group, length))
  return query, key_values, bias


@pytest.mark.parametrize("block", [2, 3, 7, 512])
def test_blocks_of_queries_change_nothing(block):
  query, key_values, bias = random_inputs()
  expected = plain_attention(query, *key_values, np.asarray(bias))
  actual = causal_attention(query, key_values, bias_blocks(bias[None], block), None)
  np.testing.assert_allclose(actual.reshape(expected.shape), expected, atol=1e-5)


def test_masked_keys_change_nothing():
  query, key_values, bias = random_inputs()
  mask = jnp.arange(7) >= jnp.array([[2], [0]])
  whole = causal_attention(query, key_values, bias_blocks(bias[None], 3), mask)
  tail = causal_attention(
    query[:1, 2:],
    KeyValues(*(a[:1, :, 2:] for a in key_values)),
    bias_blocks(bias[None, :, :5]),
    None,
  )
  np.testing.assert_allclose(whole[:1, 2:], tail, atol=1e-5)
  assert np.isfinite(whole).all()


def test_keys_in_two_parts_are_attended_to_like_one():
  query, key_values, bias = random_inputs()
  expected = causal_attention(query, key_values, bias_blocks(bias[None]), None)[:, -1:]
  by_key = jnp.flip(bias, axis=1)[None]
  parts = [
    (KeyValues(*(a[:, :, s] for a in key_values)).cached, by_key[:, :, s])
    for s in (slice(0, 4), slice(4, 7))
  ]
  np.testing.assert_allclose(cached_attention(query[:, -1:], parts), expected, atol=1e-5)


def test_rotary_products_depend_on_distance_only():
  x, y = jax.random.normal(jax.random.key(0), (2, 1, 1, 2, 8))

  def product(i, j):
    return jnp.sum(rotate(x, jnp.array([[i]]), 100.0) * rotate(y, jnp.array([[j]]), 100.0), -1)

  np.testing.assert_allclose(product(9, 4), product(6, 1), atol=1e-5)
  assert not np.allclose(product(9, 4), product(9, 5), atol=1e-2)
  np.testing.assert_allclose(
    jnp.linalg.norm(rotate(x, jnp.array([[7]]), 100.0)), jnp.linalg.norm(x)
  )
