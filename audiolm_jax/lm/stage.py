"""What every kind of stage is asked: its streams, its examples, its model and its loss.

A kind is a subclass of `StageSpec`. Its fields are data, which bundles and checkpoints store; its
methods are what readers, training, export and sampling call. `sampling.registry` lists the kinds.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import Record, Stream, by_key, differences

Example = dict[str, np.ndarray]
Batch = Mapping[str, Any]


class Feature(NamedTuple):
  """Shape and dtype of one array of an example."""

  shape: tuple[int, ...]
  dtype: Any = np.int32


@dataclasses.dataclass(frozen=True)
class StageSpec(abc.ABC):
  """What a stage reads, predicts and learns.

  The first methods are NumPy alone; `init` and those after it may import JAX when they are called.

  Attributes:
    name: of the stage, unique in its bundle.
    kind: of the stage, as `sampling.registry` calls it; each subclass has its own default.
  """

  name: str
  kind: str = dataclasses.field(default="", kw_only=True)

  # The feature that weights an example's targets: rows that fill up a batch have zeros there.
  weight_feature: ClassVar[str] = "decoder_loss_weights"

  @property
  @abc.abstractmethod
  def reads(self) -> tuple[Stream, ...]:
    """The streams that must be there before the stage writes."""

  @property
  @abc.abstractmethod
  def writes(self) -> Stream:
    """The stream that the stage predicts."""

  @property
  def streams(self) -> dict[str, Stream]:
    """By key, all that an example is made of."""
    return by_key([*self.reads, self.writes])

  @property
  def collapsed(self) -> frozenset[str]:
    """Keys of the streams whose repeats are dropped, so that their tokens have no place in time."""
    return frozenset()

  @property
  def crop_length(self) -> float | None:
    """Seconds of a training example; None where a clip is one example as a whole."""
    return None

  @abc.abstractmethod
  def features(self) -> dict[str, Feature]:
    """The arrays of one example."""

  @abc.abstractmethod
  def example(self, record: Record) -> Example:
    """The `features` of one crop.

    Args:
      record: the crop's tokens in every stream of `streams`.
    Raises:
      DataError: a stream is missing, holds other values, or the crop is too long.
    """

  def filler(self, example: Example) -> Example:
    """An example that counts for nothing, made of another one."""
    return {**example, self.weight_feature: np.zeros_like(example[self.weight_feature])}

  def check_streams(self, there: Mapping[str, Stream]) -> None:
    """Refuses tokens of another rate or vocabulary.

    Args:
      there: what the tokens are, by key; what is not named is not compared.
    Raises:
      DataError: names the first difference.
    """
    for key, stream in self.streams.items():
      for difference in differences(stream, there[key]) if key in there else ():
        raise DataError(
          f"the {self.name} stage has {difference}; configure the stage for the tokenizers that "
          "made the tokens"
        )

  @classmethod
  @abc.abstractmethod
  def config_class(cls) -> type:
    """The dataclass of the model's shape."""

  def check_config(self, config: Any) -> None:
    """Raises a `ConfigError` where a model of this shape cannot be the stage's."""
    del config

  def shape_of(self, config: Any) -> Any:
    """The configuration without the settings of the computation: one shape, the same parameters."""
    return config

  @abc.abstractmethod
  def init(self, config: Any, rng: Any, batch: Batch) -> Any:
    """Fresh parameters, boxed with their logical axes."""

  @abc.abstractmethod
  def loss(
    self, config: Any, params: Any, batch: Batch, *, rng: Any = None, z_loss: float = 0.0
  ) -> tuple[Any, dict[str, Any]]:
    """The loss of a batch, and metrics with `loss` and `weight`, the number of targets.

    Args:
      rng: random key of dropout and masks; None for evaluation, which depends on nothing else.
      z_loss: weight of the squared log-partition function.
    """

  def inference_params(self, params: Any) -> dict[str, Any]:
    """Parameters of training as those of sampling, which bundles store."""
    return dict(params)

  def training_params(self, config: Any, params: Any) -> Any:
    """The inverse of `inference_params`."""
    del config
    return params

  def amounts(self, batch: Batch) -> dict[str, float]:
    """How many "tokens" a batch holds, padding left out."""
    return {"tokens": float(np.count_nonzero(batch[self.weight_feature]))}

  def flops_per_step(self, config: Any, batch: Batch) -> float:
    """Floating-point operations of one update; 0 where the kind does not count them."""
    del config, batch
    return 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
  """A trained stage.

  Attributes:
    spec: what it reads and predicts.
    config: the model's shape, a `spec.config_class()`.
    params: nested dict of arrays, as `spec.inference_params` gives them.
  """

  spec: StageSpec
  config: Any
  params: Any
