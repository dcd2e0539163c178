"""Optimizers and learning-rate schedules, created from a configuration dataclass."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.training.muon import muon

# Maps the number of previous updates to the learning rate.
Schedule = Callable[[ArrayLike], Float[Array, ""]]

OPTIMIZERS = ("adamw", "adam", "adafactor", "muon", "sgd")
SHORT_SCHEDULES = {
  "rsqrt": "constant * linear_warmup * rsqrt_normalized_decay",
  "cosine": "constant * linear_warmup * cosine_decay",
  "linear": "constant * linear_warmup * linear_decay",
}
FACTORS = (
  "constant",
  "linear_warmup",
  "rsqrt_decay",
  "rsqrt_normalized_decay",
  "cosine_decay",
  "linear_decay",
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The optimizer and its learning-rate schedule.

  `schedule` is a product of factors in the notation of T5X, for example "constant * linear_warmup *
  rsqrt_decay", or one of the short names "constant", "rsqrt", "cosine" and "linear". The factor
  `constant` is `learning_rate`. `linear_warmup` rises to 1 over `warmup_steps`. The rsqrt factors
  are constant until `warmup_steps` and then fall in proportion to 1 / sqrt(step). `cosine_decay`
  and `linear_decay` fall from 1 at the end of the warm-up to `final_fraction` at `decay_steps`.

  The optimizer "muon" updates every kernel by its orthogonalized momentum, and all other parameters
  by Adam. Its updates have the RMS of Adam updates, so learning rates for Adam remain suitable.

  Attributes:
    name: one of `OPTIMIZERS`.
    learning_rate: value of the factor `constant`.
    schedule: product of factors, or a short name; see above.
    warmup_steps: length of the warm-up in steps.
    decay_steps: step at which `cosine_decay` and `linear_decay` end.
    final_fraction: value of these two factors from `decay_steps` on.
    weight_decay: rate of the decoupled weight decay; 0 for none.
    b1: decay of Adam's first moment, or momentum of Adafactor and SGD; 0 for none.
    b2: decay of Adam's second moment.
    eps: epsilon of Adam.
    clip_norm: largest global norm of the gradients; larger gradients are scaled down. 0 for no
      clipping.
  """

  name: str = "adamw"
  learning_rate: float = 1e-3
  schedule: str = "constant"
  warmup_steps: int = 0
  decay_steps: int = 0
  final_fraction: float = 0.0
  weight_decay: float = 0.0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  clip_norm: float = 0.0

  def __post_init__(self) -> None:
    if self.name not in OPTIMIZERS:
      raise ConfigError(f"optimizer {self.name!r} is not one of {', '.join(OPTIMIZERS)}")
    factors = _factors(self.schedule)
    if {"rsqrt_decay", "rsqrt_normalized_decay"} & set(factors) and self.warmup_steps < 1:
      raise ConfigError(f"schedule {self.schedule!r} needs warmup_steps of at least 1")
    if self.warmup_steps and set(factors) == {"constant"}:
      raise ConfigError(
        f"warmup_steps {self.warmup_steps} has no effect with schedule {self.schedule!r}; "
        f"write 'constant * linear_warmup'"
      )
    if {"cosine_decay", "linear_decay"} & set(factors) and self.decay_steps <= self.warmup_steps:
      raise ConfigError(
        f"schedule {self.schedule!r} ends after {self.decay_steps} steps (decay_steps, in gin "
        f"usually TRAIN_STEPS), within its warm-up of {self.warmup_steps} steps (warmup_steps, "
        "WARMUP_STEPS); train for more steps or set a shorter warm-up"
      )


def make_schedule(config: OptimizerConfig) -> Schedule:
  """Returns the learning rate as a function of the number of previous updates.

  The first update of a warm-up has the rate learning_rate / warmup_steps, not 0.

  Source: `t5x.utils.create_learning_rate_scheduler` for the names of the factors.
  """
  factors = _factors(config.schedule)

  def schedule(count: ArrayLike) -> Float[Array, ""]:
    step = jnp.asarray(count, jnp.float32)
    rate = jnp.ones((), jnp.float32)
    for factor in factors:
      rate = rate * _factor(factor, step, config)
    return rate

  return schedule


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """Returns an optimizer with gradient clipping, weight decay and a learning-rate schedule.

  Weight decay is decoupled: each update subtracts learning rate * weight_decay * parameter.
  """
  parts = []
  if config.clip_norm:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  if config.name in ("adam", "adamw"):
    parts.append(optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps))
  elif config.name == "muon":
    parts.append(muon(b1=config.b1, b2=config.b2))
  elif config.name == "adafactor":
    parts.append(optax.scale_by_factored_rms())
    parts.append(optax.clip_by_block_rms(1.0))
    if config.b1:
      parts.append(optax.ema(config.b1, debias=False))
  elif config.b1:
    parts.append(optax.trace(decay=config.b1))
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=decay_mask))
  parts.append(optax.scale_by_learning_rate(make_schedule(config)))
  return optax.chain(*parts)


def decay_mask(params: Params) -> PyTree:
  """Returns a tree of booleans: True for parameters to which weight decay applies.

  Weight decay applies to arrays of at least two axes, except biases, scales, and codebooks, which
  training does not change.
  """

  def decays(path: KeyPath, value: jax.Array) -> bool:
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return value.ndim >= 2 and not (names and names[-1] in ("bias", "scale", "codebooks"))

  return jax.tree_util.tree_map_with_path(decays, params)


def _factors(schedule: str) -> tuple[str, ...]:
  factors = tuple(f.strip() for f in SHORT_SCHEDULES.get(schedule, schedule).split("*"))
  for factor in factors:
    if factor not in FACTORS:
      names = ", ".join((*SHORT_SCHEDULES, *FACTORS))
      raise ConfigError(f"schedule factor {factor!r} in {schedule!r} is not one of {names}")
  return factors


def _factor(name: str, step: Float[Array, ""], config: OptimizerConfig) -> Float[Array, ""] | float:
  warmup = config.warmup_steps
  if name == "constant":
    return config.learning_rate
  if name == "linear_warmup":
    return jnp.minimum(1.0, (step + 1) / max(warmup, 1))
  if name == "rsqrt_decay":
    return jax.lax.rsqrt(jnp.maximum(step, warmup))
  if name == "rsqrt_normalized_decay":
    return jnp.sqrt(jnp.asarray(warmup, jnp.float32)) * jax.lax.rsqrt(jnp.maximum(step, warmup))
  progress = jnp.clip((step - warmup) / (config.decay_steps - warmup), 0.0, 1.0)
  decay = 0.5 * (1 + jnp.cos(jnp.pi * progress)) if name == "cosine_decay" else 1 - progress
  return config.final_fraction + (1 - config.final_fraction) * decay
