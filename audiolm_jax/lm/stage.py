"""The interface of a stage: its streams, its examples, its model and its loss.

A kind of stage is a subclass of `StageSpec`. Its fields are data that bundles and checkpoints
store; its methods are those that readers, training, export and sampling call. `sampling.registry`
lists the kinds.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.modules import Batch, Params, RandomKey, ShapedBatch
from audiolm_jax.core.shapes import Shapes, of_arrays
from audiolm_jax.core.streams import CODES, SEMANTIC, Record, Stream, by_key, differences

# The parameter that holds the codebooks of the codec, in stages that use them. Training does not
# change it.
CODEBOOKS = "codebooks"

if TYPE_CHECKING:
  import jax
  from _typeshed import DataclassInstance

  Scalar = jax.Array
  StageSamplingSettings = DataclassInstance
else:
  Scalar = object  # only `loss` needs JAX
  StageSamplingSettings = object

Example = dict[str, np.ndarray]


# The dataclass of the shape of a model, which depends on the kind of its stage.
ModelConfig = Any


class Feature(NamedTuple):
  """Shape and dtype of one array of an example."""

  shape: tuple[int, ...]
  dtype: Any = np.int32


@dataclasses.dataclass(frozen=True)
class StageSpec(abc.ABC):
  """The streams, the examples and the model of a stage.

  The methods up to `check_streams` use NumPy only; `init` and those after it may import JAX when
  they are called. `configured` makes a spec with the numbers of given tokens.

  Attributes:
    name: name of the stage, unique in its bundle.
    kind: kind of the stage in `sampling.registry`; each subclass has its own default.
  """

  name: str
  kind: str = dataclasses.field(default="", kw_only=True)

  # The feature of an example that weights its targets; it is 0 in rows that pad a batch.
  weight_feature: ClassVar[str] = "decoder_loss_weights"
  # Whether the stage is in the cascade that continues audio; others have cascades of their own.
  continues_audio: ClassVar[bool] = True
  # Whether the frames of a window are sampled together, so that one may depend on later ones.
  samples_windows: ClassVar[bool] = False
  # Share of the training examples that `example_of_pair` makes; a field of stages with pairs.
  pair_share = 0.0

  @property
  @abc.abstractmethod
  def reads(self) -> tuple[Stream, ...]:
    """The streams that the stage reads."""

  @property
  @abc.abstractmethod
  def writes(self) -> Stream:
    """The stream that the stage predicts."""

  @property
  def streams(self) -> dict[str, Stream]:
    """By key, all streams of an example."""
    return by_key([*self.reads, self.writes])

  @property
  def samples_in_time_order(self) -> bool:
    """Whether each code is sampled after all codes of earlier frames."""
    return False

  @property
  def collapsed(self) -> frozenset[str]:
    """Keys of the streams without repeats, whose tokens have no position in time."""
    return frozenset()

  @property
  def crop_length(self) -> float | None:
    """Seconds of a training example; None if an example is a whole clip."""
    return None

  @abc.abstractmethod
  def features(self) -> dict[str, Feature]:
    """Returns the shape and dtype of the arrays of one example."""

  def refusal(self, record: Record) -> str:
    """Returns why a clip cannot be an example, such as its length; "" if it can be one."""
    del record
    return ""

  @abc.abstractmethod
  def example(self, record: Record) -> Example:
    """Returns the arrays of `features` for one crop.

    Args:
      record: tokens of the crop in every stream of `streams`.

    Raises:
      DataError: a stream is missing, its values are out of range, or the crop is too long.
    """

  def example_of_pair(self, prompt: Record, target: Record) -> Example:
    """Returns the arrays of `features` for two windows of one clip, of which the first is a prompt.

    Only for stages with a `pair_share`.
    """
    raise NotImplementedError(f"the {self.name} stage has no examples of pairs")

  def filler(self, example: Example) -> Example:
    """Returns a copy of an example with zero weight."""
    return {**example, self.weight_feature: np.zeros_like(example[self.weight_feature])}

  def numbers_of(self, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """Returns the values of the fields that follow from tokens, such as vocabularies and rates.

    Args:
      streams: streams of the tokens by key; fields of absent streams are left out.

    Raises:
      DataError: the stage cannot be trained on such tokens.
    """
    del streams
    return {}

  def check_streams(self, given: Mapping[str, Stream]) -> None:
    """Checks that tokens have the rates and vocabularies of the stage.

    Args:
      given: streams of the tokens by key; absent streams are not checked.

    Raises:
      DataError: a stream differs.
    """
    for key, stream in self.streams.items():
      for difference in differences(stream, given[key]) if key in given else ():
        raise DataError(
          f"the {self.name} stage has {difference}; leave out this setting, so that it follows "
          "from the tokens, or use the tokenizers that it is for"
        )

  @classmethod
  @abc.abstractmethod
  def config_class(cls) -> type[ModelConfig]:
    """Returns the dataclass of the shape of the model."""

  def check_config(self, config: ModelConfig) -> None:
    """Raises a `ConfigError` if the stage cannot use a model of this shape."""
    del config

  def shape_of(self, config: ModelConfig) -> ModelConfig:
    """Returns the part of the configuration that determines the shapes of the parameters."""
    return config

  def sampling_settings(self, config: ModelConfig) -> StageSamplingSettings | None:
    """Returns the part of the configuration that only sampling uses; None if there is none."""
    del config
    return None

  def with_sampling_settings(
    self, config: ModelConfig, settings: StageSamplingSettings
  ) -> ModelConfig:
    """Returns the configuration with other sampling settings, after checking them.

    Only for stages whose `sampling_settings` are not None.
    """
    raise NotImplementedError(f"the {self.name} stage has no sampling settings")

  def is_frozen(self, config: ModelConfig) -> bool:
    """Returns whether training leaves some parameters as they are."""
    del config
    return False

  def accepts_params_of(self, other: "StageSpec") -> bool:
    """Returns whether a stage with another spec has parameters that this stage can start from."""
    return self == other

  def uses_codebooks(self, config: ModelConfig) -> bool:
    """Returns whether the parameters contain the codec's codebooks, under the name CODEBOOKS.

    Training copies them from the codec that made the tokens; a bundle stores them once, with its
    codec.
    """
    del config
    return False

  def codebooks(self, config: ModelConfig, codebooks: object) -> np.ndarray:
    """Returns the levels of a codec's codebooks that the parameters contain.

    Args:
      config: shape of the model.
      codebooks: [levels, size, dim] of the codec.

    Raises:
      ConfigError: their shape is not that of the stage's codes.
    """
    raise NotImplementedError

  @abc.abstractmethod
  def init(self, config: ModelConfig, key: RandomKey, batch: Batch) -> Params:
    """Returns new parameters, boxed with their logical axes."""

  def parameter_shapes(self, config: ModelConfig) -> Shapes:
    """Returns the shapes of the parameters of sampling.

    This default traces the model, which takes a second or more; a kind whose bundles load
    fast computes the shapes from the configuration.
    """
    import jax
    from flax.core import meta

    from audiolm_jax.core.keys import new_key

    batch = {
      name: jax.ShapeDtypeStruct((1, *feature.shape), feature.dtype)
      for name, feature in self.features().items()
    }

    def params(batch: Batch) -> Params:
      key = new_key(0)
      return self.inference_params(meta.unbox(self.init(config, key, batch)))

    return of_arrays(jax.eval_shape(params, batch))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types

  @abc.abstractmethod
  def loss(
    self,
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    key: RandomKey | None = None,
    z_loss: float = 0.0,
  ) -> tuple[Scalar, Mapping[str, Scalar]]:
    """Returns the loss of a batch, and metrics with `loss` and `weight`, the number of targets.

    Args:
      config: shape of the model.
      params: its parameters.
      batch: arrays of `features`.
      key: random key of dropout and masks; None for evaluation, which is deterministic.
      z_loss: weight of the squared log-partition function.
    """

  def inference_params(self, params: Params) -> Params:
    """Converts parameters of training to those of sampling, which bundles store."""
    return dict(params)

  def training_params(self, config: ModelConfig, params: Params) -> Params:
    """Converts parameters of sampling to those of training."""
    del config
    return params

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the number of "tokens" of a batch, without padding."""
    return {"tokens": float(np.count_nonzero(batch[self.weight_feature]))}

  def flops_per_step(self, config: ModelConfig, batch: ShapedBatch) -> float:
    """Returns the operations of one update; 0 if the kind does not count them."""
    del config, batch
    return 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
  """A trained stage.

  Attributes:
    spec: the streams and the kind of the stage.
    config: shape of the model, a `spec.config_class()`.
    params: nested dict of arrays, as returned by `spec.inference_params`.
  """

  spec: StageSpec
  config: ModelConfig
  params: Params


Spec = TypeVar("Spec", bound=StageSpec)


def configured(
  default: Spec, streams: Mapping[str, Stream] | None, stated: Mapping[str, object]
) -> Spec:
  """Returns a stage with the stated values and the numbers of its tokens.

  Args:
    default: the stage for the tokens of the paper, whose values apply where nothing else is given.
    streams: streams of the tokens by key, such as those of a token store; None if unknown.
    stated: values of fields by name, which take precedence; None is the same as no value.

  Raises:
    DataError: a stated number differs from that of the tokens.
  """
  stated = {name: value for name, value in stated.items() if value is not None}
  spec = dataclasses.replace(default, **stated)
  if not streams:
    return spec
  spec = dataclasses.replace(spec, **spec.numbers_of(streams) | stated)
  spec.check_streams(streams)
  return spec


def vocabularies_and_rates(streams: Mapping[str, Stream]) -> dict[str, Any]:
  """Returns the numbers of semantic tokens and codes under the names that the specs have for them.

  Args:
    streams: streams of the tokens by key; the numbers of absent streams are left out.
  """
  found: dict[str, Any] = {}
  for key, size, rate in (
    (SEMANTIC, "num_clusters", "semantic_rate"),
    (CODES, "codebook_size", "frame_rate"),
  ):
    stream = streams.get(key)
    if stream is not None:
      found[size] = stream.size
      if stream.rate is not None:
        found[rate] = stream.rate
  return found
