"""The state of a run between steps, and updates of the state."""

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


@no_type_check  # the leaves may be shapes or shardings instead of arrays
@flax.struct.dataclass
class TrainState:
  """The parameters and the state of the optimizer.

  Attributes:
    step: number of consumed batches, including batches of skipped updates; int32 scalar.
    params: tree of parameters, possibly boxed with their logical axis names.
    opt_state: state of the optimizer for `params`.
    ema_params: exponential moving average of `params`; None if no average is computed.
  """

  step: Int[Array, ""]
  params: Params
  opt_state: PyTree
  ema_params: PyTree = None

  @property
  def averaged_params(self) -> PyTree:
    """The parameters for evaluation and inference: `ema_params`, or `params` without an average."""
    return self.params if self.ema_params is None else self.ema_params


def new_train_state(
  params: Params, optimizer: optax.GradientTransformation, *, ema_decay: float = 0.0
) -> TrainState:
  """Returns the state before the first step.

  Args:
    params: the initial parameters.
    optimizer: the optimizer.
    ema_decay: decay of the moving average of the parameters, which starts from `params`; 0 for no
      average.
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
  """Returns the state after one update.

  Args:
    state: the state before the update.
    grads: the gradients, with the structure of `state.params`.
    optimizer: the optimizer of `state.opt_state`.
    ema_decay: see `update_ema`; not used if `state` has no average.
  """
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
  """Returns the exponential moving average `ema` after an update with `params`.

  The decay at `step` is the minimum of `decay` and (1 + step) / (10 + step), so that the average
  soon forgets the initial parameters.

  Args:
    ema: the average before the update.
    params: the parameters after the update.
    step: number of completed steps before the update.
    decay: largest decay.
  """
  keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda e, p: (e + (1.0 - keep) * (p - e)).astype(e.dtype), ema, params)


def apply_if_finite(
  old: State, new: State, loss: Float[Array, ""], gradient_norm: Float[Array, ""]
) -> tuple[State, Float[Array, ""]]:
  """Returns `new` if the loss and the gradients are finite, else `old` with the step of `new`.

  Args:
    old: state before the update; any dataclass of arrays with a field `step`.
    new: state after the update, with the same structure.
    loss: the loss of the batch.
    gradient_norm: global norm of the gradients before clipping; not finite if a gradient is not
      finite.

  Returns:
    The state, and 1.0 if the update was skipped, else 0.0.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
  kept = optax.tree.where(finite, new, old)
  kept = dataclasses.replace(kept, step=new.step)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]: any dataclass with a step
  return kept, 1.0 - finite.astype(jnp.float32)
