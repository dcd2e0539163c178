"""Schedules, clipping and weight decay."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.training.optimizers import (
  OPTIMIZERS,
  OptimizerConfig,
  decay_mask,
  make_optimizer,
  make_schedule,
)


def test_constant_is_the_learning_rate_at_every_step():
  rate = make_schedule(OptimizerConfig(learning_rate=0.3))
  np.testing.assert_allclose([rate(0), rate(10**6)], 0.3, rtol=1e-6)


def test_rsqrt_rises_to_the_learning_rate_and_falls_with_the_root_of_the_step():
  config = OptimizerConfig(learning_rate=0.2, schedule="rsqrt", warmup_steps=100)
  rate = make_schedule(config)
  np.testing.assert_allclose(rate(0), 0.2 / 100, rtol=1e-6)
  np.testing.assert_allclose(rate(99), 0.2, rtol=1e-6)
  np.testing.assert_allclose(rate(400), 0.1, rtol=1e-6)


def test_t5x_factors_multiply():
  config = OptimizerConfig(
    learning_rate=2.0, schedule="constant * linear_warmup * rsqrt_decay", warmup_steps=100
  )
  np.testing.assert_allclose(make_schedule(config)(10_000), 2.0 / 100, rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_decay_ends_at_the_final_fraction(name):
  config = OptimizerConfig(
    learning_rate=1.0, schedule=name, warmup_steps=10, decay_steps=110, final_fraction=0.1
  )
  rate = make_schedule(config)
  np.testing.assert_allclose(rate(10), 1.0, rtol=1e-6)
  np.testing.assert_allclose(rate(60), 0.55, rtol=1e-6)
  np.testing.assert_allclose([rate(110), rate(500)], 0.1, rtol=1e-5)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "adamx"}, "'adamx' is not one of"),
    ({"schedule": "constant * square"}, "square"),
    ({"schedule": "rsqrt"}, "needs warmup_steps of at least 1"),
    (
      {"schedule": "cosine", "warmup_steps": 10, "decay_steps": 5},
      r"ends after 5 steps \(decay_steps, in gin usually TRAIN_STEPS\), within its warm-up of 10",
    ),
    ({"warmup_steps": 10}, "has no effect"),
  ],
)
def test_an_inconsistent_configuration_is_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    OptimizerConfig(**fields)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_minimises_a_quadratic(name):
  config = OptimizerConfig(name=name, learning_rate=0.05, clip_norm=1.0)
  optimizer = make_optimizer(config)
  params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
  state = optimizer.init(params)

  @jax.jit
  def step(params, state):
    grads = jax.tree.map(lambda p: 2 * p, params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  before = float(jnp.sum(params["w"] ** 2))
  for _ in range(100):
    params, state = step(params, state)
  assert float(jnp.sum(params["w"] ** 2)) < 0.05 * before


def test_muon_moves_kernels_by_orthogonal_matrices_and_the_rest_by_adam():
  params = {
    "conv": {"kernel": jnp.zeros((3, 4, 6)), "bias": jnp.zeros(6)},
    "query": {"kernel": jnp.zeros((8, 2, 4))},
    "layers": {"output": {"kernel": jnp.zeros((3, 8, 4))}},
    "table": jnp.zeros((5, 4)),
  }
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
  optimizer = make_optimizer(OptimizerConfig(name="muon", learning_rate=1.0))
  updates = cast(Any, optimizer.update(grads, optimizer.init(params), params)[0])

  def spread(matrix):  # smallest and largest singular value over their size in an update
    values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
    return values.min(), values.max()

  stacked = updates["layers"]["output"]["kernel"]
  for matrix in (
    updates["conv"]["kernel"].reshape(12, 6),
    updates["query"]["kernel"].reshape(8, 8),
    *stacked,
  ):
    low, high = spread(np.asarray(matrix))
    assert low > 0.3
    assert high < 1.3
  by_adam = np.concatenate([updates["table"].ravel(), updates["conv"]["bias"]])
  np.testing.assert_allclose(np.abs(by_adam), np.abs(by_adam[0]), rtol=1e-3)  # signs, at first
  assert 0.5 < np.abs(by_adam[0]) < 2


def test_weight_decay_excludes_biases_and_scales():
  params = {
    "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.ones((3, 2))},
  }
  assert decay_mask(params) == {
    "dense": {"kernel": True, "bias": False},
    "norm": {"scale": False},
  }
  config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5)
  optimizer = make_optimizer(config)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates = cast(Any, optimizer.update(zeros, optimizer.init(params), params)[0])
  np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * 0.5, rtol=1e-6)
  np.testing.assert_array_equal(updates["dense"]["bias"], 0.0)


def test_clipping_bounds_the_norm_of_all_gradients_together():
  config = OptimizerConfig(name="sgd", b1=0.0, learning_rate=1.0, clip_norm=2.0)
  optimizer = make_optimizer(config)
  params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
  grads = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([0.0, 40.0])}
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(optax.tree.norm(updates), 2.0, rtol=1e-6)
  unclipped = make_optimizer(dataclasses.replace(config, clip_norm=0.0))
  updates, _ = unclipped.update(grads, unclipped.init(params), params)
  np.testing.assert_allclose(optax.tree.norm(updates), 50.0, rtol=1e-6)
