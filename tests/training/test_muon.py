"""Muon's updates and state."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from audiolm_jax.training.muon import muon, orthogonalized

_NUMBERS = optax.contrib.MuonDimensionNumbers


def test_updates_and_state_equal_those_of_optax():
  params = {
    "conv": {"kernel": jnp.zeros((3, 4, 6)), "bias": jnp.zeros(6)},
    "query": {"kernel": jnp.zeros((8, 2, 4))},
    "layers": {"output": {"kernel": jnp.zeros((3, 8, 24))}},
    "output": {"kernel": jnp.zeros((8, 24))},  # a matrix of the same shape as those of the layers
    "table": jnp.zeros((5, 4)),
  }
  numbers = {
    "conv": {"kernel": _NUMBERS((0, 1), (2,)), "bias": None},
    "query": {"kernel": _NUMBERS((0,), (1, 2))},
    "layers": {"output": {"kernel": _NUMBERS((1,), (2,))}},
    "output": {"kernel": _NUMBERS((0,), (1,))},
    "table": None,
  }
  ours = muon(b1=0.8, b2=0.99)
  theirs = optax.contrib.muon(
    -1.0,
    muon_weight_dimension_numbers=cast(Any, lambda _: numbers),
    consistent_rms=0.2,
    adam_b1=0.8,
    adam_b2=0.99,
  )
  our_state, their_state = ours.init(params), theirs.init(params)
  assert jax.tree.structure(our_state) == jax.tree.structure(their_state)
  rng = np.random.default_rng(0)
  for _ in range(3):
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    our_updates, our_state = jax.jit(ours.update)(grads, our_state, params)
    their_updates, their_state = jax.jit(theirs.update)(grads, their_state, params)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
      (our_updates, our_state),
      (their_updates, their_state),
    )


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16), (8, 9)])
def test_singular_values_of_very_different_size_end_near_one(shape):
  rng = np.random.default_rng(0)
  u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
  values = np.geomspace(1.0, 0.01, min(shape))
  matrix = jnp.asarray((u * values) @ v, jnp.float32)
  result = np.asarray(orthogonalized(matrix))
  spread = np.linalg.svd(result, compute_uv=False)
  assert spread.min() > 0.6
  assert spread.max() < 1.3
  np.testing.assert_allclose(u.T @ result @ v.T, np.diag(np.diag(u.T @ result @ v.T)), atol=1e-3)


def test_matrix_of_zeros_stays_zero():
  np.testing.assert_array_equal(orthogonalized(jnp.zeros((4, 12))), np.zeros((4, 12)))
