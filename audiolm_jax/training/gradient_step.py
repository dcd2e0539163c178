"""The training step of models with one loss and one optimizer."""

import jax.numpy as jnp
import optax
from jaxtyping import Float, Key

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Batch
from audiolm_jax.training.microbatches import LossFunction, loss_and_gradients
from audiolm_jax.training.train_state import TrainState, apply_gradients, apply_if_finite


def gradient_step(
  loss: LossFunction,
  state: TrainState,
  batch: Batch,
  rng: Key[Array, ""],
  optimizer: optax.GradientTransformation,
  *,
  microbatches: int = 1,
  ema_decay: float = 0.0,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
  """Updates the parameters, unless the loss or a gradient is not finite.

  Args:
    loss: see `loss_and_gradients`.
    state: the state before the step.
    batch: arrays with a leading batch axis.
    rng: the key for `loss`.
    optimizer: the optimizer of `state.opt_state`.
    microbatches: see `loss_and_gradients`.
    ema_decay: decay of the averaged parameters, if `state` has averaged parameters.

  Returns:
    The next state, and the metrics of `loss` with "gradient_norm" and "skipped".
  """
  value, metrics, gradients = loss_and_gradients(loss, state.params, batch, rng, microbatches)
  updated = apply_gradients(state, gradients, optimizer, ema_decay=ema_decay)
  gradient_norm = jnp.asarray(optax.tree.norm(gradients))
  state, skipped = apply_if_finite(state, updated, value, gradient_norm)
  return state, metrics | {"gradient_norm": gradient_norm, "skipped": skipped}
