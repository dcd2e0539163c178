"""What a run carries from step to step, and the guard against a bad update."""

import dataclasses
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

State = TypeVar("State")


@flax.struct.dataclass
class TrainState:
  """Parameters and what their updates need.

  Attributes:
    step: batches consumed, int32 scalar; skipped updates count.
    params: tree of parameters, possibly boxed with their logical axis names.
    opt_state: the optimizer's state for `params`.
    ema_params: running average of `params`, or None when none is kept.
  """

  step: Int[Array, ""]
  params: Any
  opt_state: Any
  ema_params: Any = None

  @property
  def averaged_params(self) -> Any:
    """What evaluation and inference use: the running average, or `params` where none is kept."""
    return self.params if self.ema_params is None else self.ema_params


def new_train_state(
  params: Any, optimizer: optax.GradientTransformation, *, ema_decay: float = 0.0
) -> TrainState:
  """The state before the first step; an `ema_decay` above 0 keeps an average, from `params` on."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    ema_params=jax.tree.map(jnp.copy, params) if ema_decay else None,
  )


def apply_gradients(
  state: TrainState,
  grads: Any,
  optimizer: optax.GradientTransformation,
  *,
  ema_decay: float = 0.0,
) -> TrainState:
  """The state after one update with `grads`."""
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  ema_params = state.ema_params
  if ema_params is not None:
    ema_params = update_ema(ema_params, params, state.step, ema_decay)
  return TrainState(state.step + 1, params, opt_state, ema_params)


def update_ema(ema: Any, params: Any, step: Int[Array, ""], decay: float) -> Any:
  """`ema` moved towards `params`; early in a run faster, so that a short run's average is of use.

  The decay at `step` is the smaller of `decay` and (1 + step) / (10 + step).
  """
  keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda e, p: (e + (1.0 - keep) * (p - e)).astype(e.dtype), ema, params)


def apply_if_finite(
  old: State, new: State, loss: Float[Array, ""], gradient_norm: Float[Array, ""]
) -> tuple[State, Float[Array, ""]]:
  """`new` where the loss and its gradient are finite, else `old` with only its step advanced.

  Args:
    old: state before the update; any dataclass of arrays with a field `step`.
    new: state after the update, of the same structure.
    loss: what was minimised.
    gradient_norm: global norm of its gradients, before clipping; not finite as soon as one is not.
  Returns:
    The state, and 1.0 if the update was skipped or 0.0.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
  kept = optax.tree.where(finite, new, old)
  kept = dataclasses.replace(kept, step=new.step)  # type: ignore[type-var,attr-defined]
  return kept, 1.0 - finite.astype(jnp.float32)
