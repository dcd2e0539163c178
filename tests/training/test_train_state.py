"""The average of the parameters, and skipped updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from audiolm_jax.training import train_state
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer

OPTIMIZER = make_optimizer(OptimizerConfig(name="sgd", b1=0.0, learning_rate=1.0))


def test_the_average_follows_the_parameters_faster_at_first():
  state = train_state.new_train_state({"w": jnp.zeros(1)}, OPTIMIZER, ema_decay=0.5)
  expected = 0.0
  for step in range(20):
    state = train_state.apply_gradients(state, {"w": -jnp.ones(1)}, OPTIMIZER, ema_decay=0.5)
    keep = min(0.5, (1 + step) / (10 + step))
    expected = keep * expected + (1 - keep) * (step + 1)
  np.testing.assert_allclose(state.params["w"], 20.0)
  np.testing.assert_allclose(state.ema_params["w"], expected, rtol=1e-6)


def test_no_average_is_computed_by_default():
  state = train_state.new_train_state({"w": jnp.zeros(1)}, OPTIMIZER)
  state = train_state.apply_gradients(state, {"w": jnp.ones(1)}, OPTIMIZER)
  assert state.ema_params is None


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_update_changes_only_the_step(bad, where):
  old = train_state.new_train_state({"w": jnp.ones(2)}, OPTIMIZER, ema_decay=0.5)
  grads = {"w": jnp.array([0.5, bad if where == "gradient" else 0.5])}
  loss = jnp.float32(bad if where == "loss" else 1.0)
  new = train_state.apply_gradients(old, grads, OPTIMIZER, ema_decay=0.5)
  kept, skipped = train_state.apply_if_finite(old, new, loss, optax.tree.norm(grads))
  assert skipped == 1.0
  assert kept.step == 1
  jax.tree.map(np.testing.assert_array_equal, kept.replace(step=old.step), old)  # pyright: ignore[reportAttributeAccessIssue]: flax.struct adds it


def test_a_finite_update_is_applied():
  old = train_state.new_train_state({"w": jnp.ones(2)}, OPTIMIZER)
  grads = {"w": jnp.ones(2)}
  new = train_state.apply_gradients(old, grads, OPTIMIZER)
  kept, skipped = train_state.apply_if_finite(old, new, jnp.float32(1.0), optax.tree.norm(grads))
  assert skipped == 0.0
  np.testing.assert_array_equal(kept.params["w"], 0.0)
