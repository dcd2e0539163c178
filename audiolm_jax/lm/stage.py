"""The interface of a stage: its streams, its examples, its model and its loss.

Each kind of stage is a subclass of `StageSpec`. Bundles and checkpoints store the fields of a spec;
data reading, training, export and sampling call its methods. `sampling.registry` lists the kinds.
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


# The configuration of a model; its class depends on the kind of the stage.
ModelConfig = Any


class Feature(NamedTuple):
  """Shape and dtype of one array of an example."""

  shape: tuple[int, ...]
  dtype: Any = np.int32


@dataclasses.dataclass(frozen=True)
class StageSpec(abc.ABC):
  """The streams, the examples and the model of a stage.

  The methods up to `check_streams` use NumPy only. `init` and the methods after it may import JAX
  when they are called. `configured` returns a spec with the vocabularies and rates of given tokens.

  Attributes:
    name: name of the stage, unique in its bundle.
    kind: kind of the stage in `sampling.registry`; each subclass has its own default.
  """

  name: str
  kind: str = dataclasses.field(default="", kw_only=True)

  # Name of the feature with the loss weights of the targets; they are 0 in rows that pad a batch.
  weight_feature: ClassVar[str] = "decoder_loss_weights"
  # Whether the stage is in the cascade that continues audio; other stages have separate cascades.
  continues_audio: ClassVar[bool] = True
  # Whether the frames of a window are sampled together, so that a frame may depend on later frames.
  samples_windows: ClassVar[bool] = False
  # Share of the training examples that `example_of_pair` makes; a field in stages with pairs.
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
    """All streams of an example, by key."""
    return by_key([*self.reads, self.writes])

  @property
  def samples_in_time_order(self) -> bool:
    """Whether each code is sampled after all codes of earlier frames."""
    return False

  @property
  def collapsed(self) -> frozenset[str]:
    """Keys of the streams whose repeats are removed; their tokens have no position in time."""
    return frozenset()

  @property
  def crop_length(self) -> float | None:
    """Duration of a training example in seconds; None if an example is a whole clip."""
    return None

  @abc.abstractmethod
  def features(self) -> dict[str, Feature]:
    """Returns the shape and dtype of the arrays of one example."""

  def refusal(self, record: Record) -> str:
    """Returns the reason why a clip cannot be an example, such as its length; "" if it can."""
    del record
    return ""

  @abc.abstractmethod
  def example(self, record: Record) -> Example:
    """Returns the arrays of `features` for one crop.

    Args:
      record: tokens of the crop in every stream of `streams`.

    Raises:
      DataError: a stream is missing, lacks levels or has values out of range, or the crop is too
        long.
    """

  def example_of_pair(self, prompt: Record, target: Record) -> Example:
    """Returns the arrays of `features` for a prompt and a target, two windows of one clip.

    Raises:
      NotImplementedError: the stage cannot be trained on pairs.
    """
    raise NotImplementedError(f"the {self.name} stage has no examples of pairs")

  def filler(self, example: Example) -> Example:
    """Returns a copy of an example, with loss weights of 0."""
    return {**example, self.weight_feature: np.zeros_like(example[self.weight_feature])}

  def numbers_of(self, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """Returns the fields that tokens determine, such as vocabularies and rates, by name.

    Args:
      streams: streams of the tokens by key; fields of absent streams are omitted.

    Raises:
      DataError: the stage cannot be trained on such tokens.
    """
    del streams
    return {}

  def check_streams(self, given: Mapping[str, Stream]) -> None:
    """Checks that tokens have the rates, the vocabularies and the levels of the stage.

    Args:
      given: streams of the tokens by key; absent streams are not checked.

    Raises:
      DataError: the rate or the vocabulary of a stream differs, or the stream has too few levels.
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
    """Returns the configuration class of the model."""

  def check_config(self, config: ModelConfig) -> None:
    """Raises a `ConfigError` if the stage cannot use a model of this shape."""
    del config

  def shape_of(self, config: ModelConfig) -> ModelConfig:
    """Returns the part of the configuration that determines the shapes of the parameters."""
    return config

  def sampling_settings(self, config: ModelConfig) -> StageSamplingSettings | None:
    """Returns the part of the configuration that only sampling uses; None without such a part."""
    del config
    return None

  def with_sampling_settings(
    self, config: ModelConfig, settings: StageSamplingSettings
  ) -> ModelConfig:
    """Returns the configuration with its sampling settings replaced by `settings`.

    Raises:
      ConfigError: the stage cannot use the settings.
      NotImplementedError: the stage has no sampling settings.
    """
    raise NotImplementedError(f"the {self.name} stage has no sampling settings")

  def is_frozen(self, config: ModelConfig) -> bool:
    """Returns whether training updates only some parameters; `CODEBOOKS` are not considered."""
    del config
    return False

  def accepts_params_of(self, other: "StageSpec") -> bool:
    """Returns whether training of this stage can start from parameters of the stage `other`."""
    return self == other

  def uses_codebooks(self, config: ModelConfig) -> bool:
    """Returns whether the parameters contain the codebooks of the codec, named `CODEBOOKS`.

    Training copies the codebooks from the codec that encoded the tokens. A bundle stores them only
    once, in its codec.
    """
    del config
    return False

  def codebooks(self, config: ModelConfig, codebooks: object) -> np.ndarray:
    """Returns the codebooks of the stage's levels, which its parameters contain.

    Args:
      config: configuration of the model.
      codebooks: codebooks of the codec [levels, size, dim].

    Raises:
      ConfigError: the codebooks do not have the levels, size and dimension that the stage needs.
      NotImplementedError: the stage uses no codebooks.
    """
    raise NotImplementedError

  @abc.abstractmethod
  def init(self, config: ModelConfig, key: RandomKey, batch: Batch) -> Params:
    """Returns new parameters, boxed with their logical axes.

    Args:
      config: configuration of the model.
      key: random key.
      batch: arrays of `features` with a batch axis, or their shapes; the values are not used.
    """

  def parameter_shapes(self, config: ModelConfig) -> Shapes:
    """Returns the shapes of the inference parameters.

    This implementation traces the model, which takes a second or more. Subclasses can compute the
    shapes from the configuration, so that bundles load faster.
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
    """Returns the loss of a batch, and metrics such as `loss` and `weight` (number of targets).

    Args:
      config: configuration of the model.
      params: parameters of the model.
      batch: arrays of `features`, with a batch axis.
      key: random key of dropout and masks; None for evaluation, which is deterministic.
      z_loss: weight of the squared log-partition function.
    """

  def inference_params(self, params: Params) -> Params:
    """Converts training parameters to inference parameters, which bundles store."""
    return dict(params)

  def training_params(self, config: ModelConfig, params: Params) -> Params:
    """Converts inference parameters to training parameters."""
    del config
    return params

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the amount of data in a batch without padding, as {"tokens": number of tokens}."""
    return {"tokens": float(np.count_nonzero(batch[self.weight_feature]))}

  def flops_per_step(self, config: ModelConfig, batch: ShapedBatch) -> float:
    """Returns the FLOPs of one update; 0 if the kind of stage does not count them."""
    del config, batch
    return 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
  """A trained stage.

  Attributes:
    spec: the streams and the kind of the stage.
    config: configuration of the model, an instance of `spec.config_class()`.
    params: nested dict of arrays, as returned by `spec.inference_params`.
  """

  spec: StageSpec
  config: ModelConfig
  params: Params


Spec = TypeVar("Spec", bound=StageSpec)


def configured(
  default: Spec, streams: Mapping[str, Stream] | None, stated: Mapping[str, object]
) -> Spec:
  """Returns a spec with the vocabularies and rates of given tokens, and with stated values.

  Args:
    default: spec with the values of all other fields.
    streams: streams of the tokens by key, such as those of a token store; None if unknown.
    stated: values of fields by name, which replace other values; values of None are ignored.

  Raises:
    DataError: the stage cannot be trained on the tokens, or the tokens have fewer levels than
      stated or a different rate or vocabulary.
  """
  stated = {name: value for name, value in stated.items() if value is not None}
  spec = dataclasses.replace(default, **stated)
  if not streams:
    return spec
  spec = dataclasses.replace(spec, **spec.numbers_of(streams) | stated)
  spec.check_streams(streams)
  return spec


def vocabularies_and_rates(streams: Mapping[str, Stream]) -> dict[str, Any]:
  """Returns vocabulary sizes and rates of semantic tokens and codes, by field name of the specs.

  Args:
    streams: streams of the tokens by key; fields of absent streams and absent rates are omitted.
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
