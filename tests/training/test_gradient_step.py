"""Gradient steps of a small linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.train_state import new_train_state


def loss(params, batch, rng):
  del rng
  value = jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
  return value, {"loss": value, "weight": jnp.float32(len(batch["x"]))}


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  return {"x": rng.normal(size=(4, 3)).astype("f"), "y": rng.normal(size=4).astype("f")}


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_step_follows_the_gradient_and_returns_its_norm(batch, microbatches):
  params = {"w": jnp.ones(3)}
  optimizer = optax.sgd(0.1)
  state = new_train_state(params, optimizer, ema_decay=0.5)
  after, metrics = gradient_step(
    loss, state, batch, jax.random.key(0), optimizer, microbatches=microbatches, ema_decay=0.5
  )
  residual = batch["x"] @ np.ones(3) - batch["y"]
  gradient = 2 * batch["x"].T @ residual / 4
  np.testing.assert_allclose(after.params["w"], 1 - 0.1 * gradient, rtol=1e-5)
  assert metrics["gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
  assert metrics["loss"] == pytest.approx(np.mean(residual**2), rel=1e-5)
  assert metrics["skipped"] == 0 and after.step == 1
  assert np.abs(after.ema_params["w"] - after.params["w"]).max() > 0


def test_a_non_finite_step_changes_only_the_step_count(batch):
  optimizer = optax.sgd(0.1)
  state = new_train_state({"w": jnp.ones(3)}, optimizer)
  bad = batch | {"y": np.array([np.inf, 0, 0, 0], "f")}
  after, metrics = gradient_step(loss, state, bad, jax.random.key(0), optimizer)
  np.testing.assert_array_equal(after.params["w"], np.ones(3))
  assert metrics["skipped"] == 1 and after.step == 1
