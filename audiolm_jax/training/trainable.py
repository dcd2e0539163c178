"""The interface between the trainer and the models that it trains."""

import abc
from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar

from jaxtyping import Key

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.training.metrics import Audio, Image, Metrics

State = TypeVar("State")


class Trainable(abc.ABC, Generic[State]):
  """A model with its losses and optimizer. All methods are pure; the state is a pytree dataclass.

  Attributes:
    component: name of the model in checkpoints and bundles, such as "codec" or "coarse_stage".
    config: configuration dataclass that `configs.to_dict` can convert; the only argument of the
      constructor.
    next_command: command that uses the trained model, with "{dir}" in place of the run folder; ""
      if there is no such command.
  """

  component: str
  config: Any
  next_command: str = ""

  @abc.abstractmethod
  def init(self, rng: Key[Array, ""], batch: Batch) -> State:
    """Returns a new state with `step` 0; parameters may be boxed with logical axis names.

    Args:
      rng: the key for random parameters.
      batch: an example of a batch; only its shapes and dtypes are used.
    """

  @abc.abstractmethod
  def train_step(
    self, state: State, batch: Batch, rng: Key[Array, ""], *parts: Hashable
  ) -> tuple[State, Metrics]:
    """Returns the next state and scalar metrics.

    If the loss or a gradient is not finite, the update is skipped: the metric "skipped" is 1, and
    only the field `step` of the state changes.

    Args:
      state: the state before the step.
      batch: the global batch.
      rng: the key of this step.
      *parts: result of the method `parts` for this training step; static in the compiled program.
    """

  @abc.abstractmethod
  def eval_step(self, state: State, batch: Batch) -> Metrics:
    """Returns scalar metrics; "weight" is the weight of this batch in means over batches."""

  @abc.abstractmethod
  def inference_params(self, state: State) -> Params:
    """Returns a nested dict of the arrays that inference needs."""

  def parts(self, step: int) -> tuple[Hashable, ...]:
    """Returns hashable values that select the computation of training step `step`.

    For example, a value may state whether the discriminators are trained. One program is compiled
    for each distinct result.
    """
    del step
    return ()

  def component_params(self, component: Any, what: str) -> Params:
    """Returns parameters for `with_params` from a component of a bundle.

    Args:
      component: the component, for example a codec.
      what: name of the component in error messages.

    Raises:
      ConfigError: the component has a different configuration, or training of this model cannot
        start from a component of a bundle.
    """
    del component
    raise ConfigError(
      f"training of {self.component} cannot start from {what}, which contains only the parameters "
      "for inference"
    )

  def run_params(self, config: Any, params: Params, what: str) -> Params:
    """Returns parameters for `with_params` from another run.

    Args:
      config: configuration of the other run, of the class of `self.config`.
      params: inference parameters of the other run.
      what: name of the other run in error messages.

    Raises:
      ConfigError: the other run has a different configuration, or training of this model cannot
        start from another run.
    """
    del config, params
    raise ConfigError(f"training of {self.component} cannot start from {what}; use INITIAL_BUNDLE")

  def with_params(self, state: State, params: Params) -> State:
    """Returns a new state with given parameters.

    Args:
      state: a new state; provides parameters that `params` lacks.
      params: result of `component_params` or `run_params`.
    """
    raise NotImplementedError

  def summaries(self, state: State, batch: Batch) -> dict[str, Audio | Image]:
    """Returns audio and images of a held-out batch for TensorBoard, by name."""
    del state, batch
    return {}

  def warnings(self, metrics: Mapping[str, float]) -> list[str]:
    """Returns a warning for each mean training metric that is outside of its normal range."""
    del metrics
    return []

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the number of "tokens", of "audio_seconds" or of both in a batch, without padding.

    The result is empty if the model does not count them.
    """
    del batch
    return {}

  def flops_per_step(self, batch: ShapedBatch, step: int) -> float:
    """Returns the floating-point operations of training step `step`; 0 if unknown.

    The number is computed by a formula from the shapes of `batch` (arrays or ShapeDtypeStructs).
    It includes the matrix products and convolutions of the forward and backward passes. It does not
    include recomputation, masked positions and the optimizer.
    """
    del batch, step
    return 0.0


# A trainable with any type of state.
AnyTrainable = Trainable[Any]
