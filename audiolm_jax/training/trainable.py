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
    component: the name of the model in checkpoints and bundles, such as "codec" or "coarse_stage".
    config: a dataclass that `configs.to_dict` can convert; it is the constructor's only argument.
    next_command: the command that uses the trained model, with "{dir}" for the run's folder; "" if
      there is none.
  """

  component: str
  config: Any
  next_command: str = ""

  @abc.abstractmethod
  def init(self, rng: Key[Array, ""], batch: Batch) -> State:
    """Returns a new state with `step` 0; parameters may be boxed with logical axis names."""

  @abc.abstractmethod
  def train_step(
    self, state: State, batch: Batch, rng: Key[Array, ""], *parts: Hashable
  ) -> tuple[State, Metrics]:
    """Returns the next state and scalar metrics.

    An update that is not finite is skipped: the metric "skipped" is 1 and only `step` advances.

    Args:
      state: the state before the step.
      batch: the global batch.
      rng: the key of this step.
      *parts: the result of `parts` for this training step; static in the compiled program.
    """

  @abc.abstractmethod
  def eval_step(self, state: State, batch: Batch) -> Metrics:
    """Returns scalar metrics, including "weight", the weight of this batch in their mean."""

  @abc.abstractmethod
  def inference_params(self, state: State) -> Params:
    """Returns a nested dict of the arrays that inference needs."""

  def parts(self, step: int) -> tuple[Hashable, ...]:
    """Returns hashable values that select the parts of the model that training step `step` uses.

    One program is compiled for each distinct value.
    """
    del step
    return ()

  def component_params(self, component: Any, what: str) -> Params:
    """Returns the parameters of a trained component, as `inference_params` returns them.

    Args:
      component: for example the codec of a bundle.
      what: its name in messages.

    Raises:
      ConfigError: its configuration differs from this one, or training cannot start from it.
    """
    del component
    raise ConfigError(
      f"training of {self.component} cannot start from {what}, which contains only the parameters "
      "for inference"
    )

  def run_params(self, config: Any, params: Params, what: str) -> Params:
    """Returns the parameters of another run, as `with_params` takes them.

    Args:
      config: the configuration of that run, of the same class as this one's.
      params: its inference parameters.
      what: its name in messages.

    Raises:
      ConfigError: its configuration differs from this one, or training cannot start from it.
    """
    del config, params
    raise ConfigError(f"training of {self.component} cannot start from {what}; use INITIAL_BUNDLE")

  def with_params(self, state: State, params: Params) -> State:
    """Returns a new state that starts from what `component_params` or `run_params` returned."""
    raise NotImplementedError

  def summaries(self, state: State, batch: Batch) -> dict[str, Audio | Image]:
    """Returns audio and images of a validation batch for TensorBoard."""
    del state, batch
    return {}

  def warnings(self, metrics: Mapping[str, float]) -> list[str]:
    """Returns one sentence for each mean training metric that is out of its range."""
    del metrics
    return []

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns how many "tokens" or "audio_seconds" a batch holds, without padding."""
    del batch
    return {}

  def flops_per_step(self, batch: ShapedBatch, step: int) -> float:
    """Returns the floating-point operations of training step `step`; 0 if unknown.

    Counts the matrix products and convolutions of the forward and backward passes, by formula from
    the shapes of `batch` (arrays or ShapeDtypeStructs). Recomputation, masked positions and the
    optimizer are not counted.
    """
    del batch, step
    return 0.0


# For code that does not read the state.
AnyTrainable = Trainable[Any]
