"""The state of a run between steps, and updates that skip non-finite gradients."""

import dataclasses
from typing import TypeVar, cast, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, PyTree

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Params

State = TypeVar("State")


@no_type_check  # trees of shapes have this structure too
@flax.struct.dataclass
class TrainState:
  """Parameters and the state of their optimizer.

  Attributes:
    step: number of consumed batches, int32 scalar; skipped updates count.
    params: tree of parameters, possibly boxed with their logical axis names.
    opt_state: the optimizer's state for `params`.
    ema_params: running average of `params`, or None if it is not computed.
  """

  step: Int[Array, ""]
  params: Params
  opt_state: PyTree
  ema_params: PyTree = None

  @property
  def averaged_params(self) -> PyTree:
    """The parameters for evaluation and inference: the running average if there is one."""
    return self.params if self.ema_params is None else self.ema_params


def new_train_state(
  params: Params, optimizer: optax.GradientTransformation, *, ema_decay: float = 0.0
) -> TrainState:
  """Returns the state before the first step.

  Args:
    params: the initial parameters.
    optimizer: the optimizer.
    ema_decay: above 0 to compute a running average, which starts from `params`.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    ema_params=jax.tree.map(jnp.copy, params) if ema_decay else None,
  )


def apply_gradients(
  state: TrainState,
  grads: PyTree,
  optimizer: optax.GradientTransformation,
  *,
  ema_decay: float = 0.0,
) -> TrainState:
  """Returns the state after one update with `grads`."""
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = apply_updates(state.params, updates)
  ema_params = state.ema_params
  if ema_params is not None:
    ema_params = update_ema(ema_params, params, state.step, ema_decay)
  return TrainState(state.step + 1, params, opt_state, ema_params)


def apply_updates(params: Params, updates: PyTree) -> Params:
  """Returns the parameters plus the updates of an optimizer."""
  return cast(Params, optax.apply_updates(params, updates))


def update_ema(ema: PyTree, params: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
  """Returns the running average `ema` after an update with `params`.

  The decay at `step` is the smaller of `decay` and (1 + step) / (10 + step), so that the average of
  a short run is useful too.
  """
  keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda e, p: (e + (1.0 - keep) * (p - e)).astype(e.dtype), ema, params)


def apply_if_finite(
  old: State, new: State, loss: Float[Array, ""], gradient_norm: Float[Array, ""]
) -> tuple[State, Float[Array, ""]]:
  """Returns `new` if the loss and its gradients are finite, else `old` with the step of `new`.

  Args:
    old: state before the update; any dataclass of arrays with a field `step`.
    new: state after the update, with the same structure.
    loss: the minimised loss.
    gradient_norm: global norm of the gradients before clipping; it is not finite if any gradient
      is not.

  Returns:
    The state, and 1.0 if the update was skipped, else 0.0.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
  kept = optax.tree.where(finite, new, old)
  kept = dataclasses.replace(kept, step=new.step)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]: any dataclass with a step
  return kept, 1.0 - finite.astype(jnp.float32)
