"""The conditioned stage: predicts semantic tokens or a text, and an end token, from a source.

    source    text, as characters     ──encoder──▶ hidden states of the whole source
    targets   z_1 z_2 ... z_n END     ──decoder──▶ each token, from the source and earlier tokens

The source can also be the semantic tokens of another recording. The end token lets the model
determine the length. With the target "text", the stage recognizes speech: its source is the
semantic tokens of a clip, and its targets are the characters of the text. With the source
"nothing", the stage is pretrained: random semantic tokens of a clip are deleted, the encoder reads
the other tokens, and the targets are all tokens of the clip.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.modules import Batch, Params, RandomKey, ShapedBatch
from audiolm_jax.core.ranges import (
  Depth,
  Rate,
  Scale,
  Seconds,
  Share,
  Steps,
  StreamSize,
  Vocabulary,
)
from audiolm_jax.core.shapes import Shapes
from audiolm_jax.core.streams import (
  SEMANTIC,
  SOURCE_SEMANTIC,
  TEXT,
  TRANSCRIPT,
  Record,
  Role,
  Stream,
  by_key,
)
from audiolm_jax.lm import text
from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.stage import (
  Example,
  Feature,
  ModelConfig,
  Scalar,
  StageSpec,
  configured,
  vocabularies_and_rates,
)
from audiolm_jax.lm.tokens import BOS, EOS, NUM_RESERVED, PAD, TokenLayout

_MOST_CHARACTERS = 4_096
# The number of rows of the source embedding is a multiple of this number, so that the table can be
# sharded over devices.
_ROWS = 8


class ConditionedSource(enum.StrEnum):
  """The source of the stage: text, semantic tokens of another recording, or none (pretraining)."""

  TEXT = "text"
  SEMANTIC = "semantic"
  NOTHING = "nothing"


class Target(enum.StrEnum):
  """The targets of the stage: semantic tokens, or the text of a clip from its semantic tokens."""

  SEMANTIC = "semantic"
  TEXT = "text"


@dataclasses.dataclass(frozen=True)
class ConditionedConfig:
  """Shape of a conditioned stage's model and the settings of its training.

  Attributes:
    transformer: shape of the layers, with rotary positions; `num_layers` is the number of decoder
      layers.
    encoder_layers: number of encoder layers.
    targets_per_source: mean number of targets per token of the source, such as 1.6 semantic tokens
      per character. The positions of the source in cross-attention are multiples of this number.
    label_smoothing: share of the target probability that is distributed equally over all classes.
    deleted_share: share of semantic tokens that pretraining deletes.
    trained_encoder_layers: number of lowest encoder layers that training updates, together with the
      embedding of the source; all other parameters keep their initial values. None to update all
      parameters.

  Source: SPEAR-TTS (arXiv 2302.03540), section 4.
  """

  transformer: TransformerConfig = TransformerConfig(num_layers=24, positions=Positions.ROTARY)
  encoder_layers: Depth = 24
  targets_per_source: Scale = 1.0
  label_smoothing: Share = 0.1
  deleted_share: Share = 0.6
  trained_encoder_layers: Depth | None = None

  def __post_init__(self):
    if self.transformer.positions is not Positions.ROTARY or self.transformer.num_frame_embeddings:
      raise ConfigError("a conditioned stage needs rotary positions and no frame embeddings")
    if (self.trained_encoder_layers or 0) > self.encoder_layers:
      raise ConfigError(
        f"trained_encoder_layers {self.trained_encoder_layers} exceeds the "
        f"{self.encoder_layers} layers of the encoder"
      )
    if not 0 < self.deleted_share < 1:
      raise ConfigError(f"deleted_share {self.deleted_share} must be between 0 and 1")

  def shape(self) -> "ConditionedConfig":
    """Returns the configuration with fixed values for settings of the computation and training.

    Models whose shapes are equal can use the same inference parameters.
    """
    return ConditionedConfig(self.transformer.shape(), self.encoder_layers, self.targets_per_source)

  @property
  def encoder(self) -> TransformerConfig:
    """The configuration of the encoder layers."""
    return dataclasses.replace(self.transformer, num_layers=self.encoder_layers)


@dataclasses.dataclass(frozen=True)
class ConditionedSpec(StageSpec):
  """A stage that predicts semantic tokens or characters until an end token, given a source.

  The vocabulary of the encoder contains the characters and the semantic tokens, so that a stage
  with the source "text" can start from pretrained parameters.

  Attributes:
    source: see `ConditionedSource`; a string becomes a `ConditionedSource`.
    longest_seconds: duration of the longest clip, in training and in sampling.
    longest_source: maximum number of source tokens (characters or semantic tokens). Not used in
      pretraining or with the target "text", because the source is then the clip itself.
    semantic_rate: semantic tokens per second, with repeats.
    num_clusters: size of the semantic vocabulary.
    source_rate: semantic tokens per second of a semantic source; None for the rate of the targets.
    source_clusters: vocabulary of a semantic source; None for the vocabulary of the targets.
    characters: the characters that the stage supports, each once.
    language: language of the text, for `text.normalized`.
    target: see `Target`; a string becomes a `Target`.
    longest_text: maximum number of characters that a stage with the target "text" predicts.

  Source: SPEAR-TTS (arXiv 2302.03540), section 3.
  """

  source: ConditionedSource | str = ConditionedSource.TEXT
  longest_seconds: Seconds = 20.0
  longest_source: Steps = 400
  semantic_rate: Rate = 25.0
  num_clusters: Vocabulary = 1024
  source_rate: Rate | None = None
  source_clusters: StreamSize | None = None
  characters: str = text.CHARACTERS
  language: str = text.ENGLISH
  target: Target | str = Target.SEMANTIC
  longest_text: Steps = 400
  kind: str = dataclasses.field(default="conditioned", kw_only=True)

  continues_audio = False

  def __post_init__(self):
    configs.set_members(self, "stage", source=ConditionedSource, target=Target)
    if self.is_transcript and (
      self.source is not ConditionedSource.SEMANTIC or self.source_rate or self.source_clusters
    ):
      raise ConfigError(
        f'stage {self.name!r} has the target "text", for which the source must be "semantic", '
        "without source_rate and source_clusters"
      )
    twice = len(set(self.characters)) < len(self.characters)
    if twice or not 0 < len(self.characters) <= _MOST_CHARACTERS:
      raise ConfigError(
        f"stage {self.name!r} has {len(self.characters)} characters; give 1 to {_MOST_CHARACTERS}, "
        "each once"
      )
    if self.longest_source < 2 or self.max_steps < 1:
      raise ConfigError(f"stage {self.name!r} has no room for a source and a target")

  @property
  def is_transcript(self) -> bool:
    """Whether the stage recognizes speech: its targets are characters."""
    return self.target is Target.TEXT

  @property
  def reads(self) -> tuple[Stream, ...]:
    """The text, the semantic tokens of another recording, or nothing."""
    if self.source is ConditionedSource.TEXT:
      return (TEXT,)
    if self.source is ConditionedSource.NOTHING:
      return ()
    size = self.num_clusters if self.source_clusters is None else self.source_clusters
    return (Stream(SEMANTIC, size, self.source_rate or self.semantic_rate, role=Role.SOURCE),)

  @property
  def writes(self) -> Stream:
    """Semantic tokens with their repeats, or the code points of a text."""
    return TRANSCRIPT if self.is_transcript else self._semantic

  @property
  def streams(self) -> dict[str, Stream]:
    """All streams of an example, by key; a text is always the stream `TEXT`."""
    return by_key([*self._sources, TEXT if self.is_transcript else self.writes])

  @property
  def _semantic(self) -> Stream:
    return Stream(SEMANTIC, self.num_clusters, self.semantic_rate)

  @property
  def _sources(self) -> tuple[Stream, ...]:
    """The sources of an example; for the target "text", the semantic tokens of the clip itself."""
    return (self._semantic,) if self.is_transcript else self.reads

  @property
  def clip_steps(self) -> int:
    """Number of semantic tokens of the longest clip."""
    return round(self.longest_seconds * self.semantic_rate)

  @property
  def max_steps(self) -> int:
    """Largest number of targets without the end token, for the longest clip or longest text."""
    return self.longest_text if self.is_transcript else self.clip_steps

  @property
  def source_length(self) -> int:
    """Number of tokens of a padded source, including its end token."""
    is_clip = self.source is ConditionedSource.NOTHING or self.is_transcript
    return (self.clip_steps if is_clip else self.longest_source) + 1

  @property
  def target_size(self) -> int:
    """Number of different targets, without the end token."""
    return len(self.characters) if self.is_transcript else self.num_clusters

  @property
  def layout(self) -> TokenLayout:
    """The vocabulary of the decoder."""
    return TokenLayout(self.target_size, 0)

  @property
  def source_size(self) -> int:
    """Number of rows of the source embedding: reserved ids, characters and semantic tokens."""
    clusters = max(self.num_clusters, self.source_clusters or 0)
    return -(-(NUM_RESERVED + len(self.characters) + clusters) // _ROWS) * _ROWS

  @property
  def first_source_cluster(self) -> int:
    """The id of semantic token 0 in a source."""
    return NUM_RESERVED + len(self.characters)

  def features(self) -> dict[str, Feature]:
    """Returns the features: decoder inputs, targets, loss weights and, if there is one, the source.

    The decoder inputs are the targets, shifted right by a begin token.
    """
    row = Feature((self.max_steps + 1,))
    found = {
      "decoder_input_tokens": row,
      "decoder_target_tokens": row,
      "decoder_loss_weights": Feature(row.shape, np.float32),
    }
    if self.source is not ConditionedSource.NOTHING:
      found["source_tokens"] = Feature((self.source_length,))
    return found

  def numbers_of(self, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """Returns vocabulary and rate of semantic tokens, by field name.

    The vocabulary and the rate of a semantic source are included if they differ from the targets.
    """
    semantic = {key: stream for key, stream in streams.items() if key == SEMANTIC}
    found = vocabularies_and_rates(semantic)
    if (
      self.source is ConditionedSource.SEMANTIC
      and not self.is_transcript
      and SOURCE_SEMANTIC in streams
    ):
      source, target = streams[SOURCE_SEMANTIC], streams.get(SEMANTIC)
      if target is None or source.size != target.size:
        found["source_clusters"] = source.size
      if target is None or source.rate != target.rate:
        found["source_rate"] = source.rate
    return found

  def refusal(self, record: Record) -> str:
    """Returns the reason why a clip cannot be an example (its length or text); "" if it can."""
    semantic = record.get(SEMANTIC)
    if semantic is not None and len(semantic) > self.clip_steps:
      return f"longer than {self.longest_seconds:g} s"
    if semantic is not None and len(semantic) == 0:
      return "no semantic tokens"
    try:
      for stream in self._sources:
        tokens = record.get(stream.key)
        if tokens is None or len(tokens) == 0:
          return f"no {stream.words}"
        self.source_ids(tokens)
      if self.is_transcript:
        words = record.get(TEXT.key)
        if words is None or len(words) == 0:
          return f"no {TEXT.words}"
        self.target_classes(words)
    except DataError as error:
      return str(error)
    return ""

  def example(self, record: Record) -> Example:
    """Returns the arrays of `features` for one clip, padded at the end.

    Raises:
      DataError: a stream is missing, its values are out of range, or `refusal` returns a reason.
    """
    reader = f"the {self.name} stage"
    predicted = (TEXT if self.is_transcript else self.writes).of(record, reader)
    reason = self.refusal(record)
    if reason:
      raise DataError(f"a clip is no example of {reader}: {reason}")
    targets = np.append(NUM_RESERVED + self.target_classes(predicted), EOS).astype(np.int32)
    space = (0, self.max_steps + 1 - len(targets))
    example = {
      "decoder_input_tokens": np.pad(
        np.append(BOS, targets[:-1]).astype(np.int32), space, constant_values=PAD
      ),
      "decoder_target_tokens": np.pad(targets, space, constant_values=PAD),
      "decoder_loss_weights": np.pad(np.ones(len(targets), np.float32), space),
    }
    for stream in self._sources:
      source = self.source_ids(stream.of(record, reader))
      example["source_tokens"] = np.pad(source, (0, self.source_length - len(source)))
    return example

  def source_ids(self, tokens: np.ndarray) -> Int[np.ndarray, "length"]:
    """Returns the ids of a source and its end token.

    Args:
      tokens: code points of a text, or semantic tokens.

    Raises:
      DataError: the source is empty or too long, or has characters that are not in `characters`.
      UserError: the numbers in a text cannot be converted to words, see `text.normalized`.
    """
    if self.source is ConditionedSource.TEXT:
      words = text.normalized(text.of_code_points(tokens), self.language)
      found = NUM_RESERVED + text.places(words, self.characters)
    else:
      found = self.first_source_cluster + np.asarray(tokens, np.int32)
    if len(found) == 0:
      raise DataError("the source is empty")
    if len(found) >= self.source_length:
      raise DataError(
        f"the source has {len(found)} tokens, the {self.name} stage reads up to "
        f"{self.source_length - 1}; shorten it"
      )
    return np.append(found, EOS).astype(np.int32)

  def target_classes(self, tokens: np.ndarray) -> Int[np.ndarray, "length"]:
    """Returns the classes of targets.

    The class of a semantic token is the token; the class of a character is its index in
    `characters`.

    Args:
      tokens: semantic tokens, or code points of a text.

    Raises:
      DataError: the text is empty or too long, or has characters that are not in `characters`.
      UserError: the numbers in the text cannot be converted to words, see `text.normalized`.
    """
    if not self.is_transcript:
      return np.asarray(tokens, np.int32)
    words = text.normalized(text.of_code_points(tokens), self.language)
    found = text.places(words, self.characters)
    if len(found) > self.longest_text:
      raise DataError(
        f"the text has {len(found)} characters, the {self.name} stage predicts up to "
        f"{self.longest_text}; shorten it"
      )
    return found

  def target_tokens(self, classes: Int[np.ndarray, "length"]) -> Int[np.ndarray, "length"]:
    """Returns the tokens of the stream `writes` from classes; a text remains normalised."""
    if not self.is_transcript:
      return classes
    return text.code_points("".join(self.characters[place] for place in classes))

  @classmethod
  def config_class(cls) -> type:
    """Returns the configuration class of the model."""
    return ConditionedConfig

  def shape_of(self, config: ModelConfig) -> ModelConfig:
    """Returns the shape of the model, see `ConditionedConfig.shape`."""
    return config.shape()

  def is_frozen(self, config: ModelConfig) -> bool:
    """Returns whether training updates only the source embedding and layers of the encoder."""
    return config.trained_encoder_layers is not None

  def accepts_params_of(self, other: StageSpec) -> bool:
    """Returns whether this stage can use the parameters of the stage `other`.

    The source, the language and the maximum lengths may differ.
    """
    fields = ("name", "num_clusters", "semantic_rate", "characters", "source_size", "target")
    return isinstance(other, ConditionedSpec) and all(
      getattr(self, name) == getattr(other, name) for name in fields
    )

  def init(self, config: ModelConfig, key: RandomKey, batch: Batch) -> Params:
    """Returns new parameters of the model."""
    import jax.numpy as jnp

    row = jnp.ones((len(batch["decoder_input_tokens"]), 8), jnp.int32)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    return self.model(config).init(key, row, row)["params"]

  def parameter_shapes(self, config: ModelConfig) -> Shapes:
    """Returns the shapes of the parameters of the model."""
    vocab, dim = self.layout.vocab_size, config.transformer.dim

    def stack(layers: TransformerConfig, cross: bool) -> Shapes:
      shapes = layers.parameter_shapes(vocab)
      found = {n: s for n, s in shapes.items() if n.startswith("layers_") or n == "final_norm"}
      if cross:
        for name, layer in found.items():
          if isinstance(layer, Mapping) and name != "final_norm":
            found[name] = {
              **layer,
              "cross_norm": layer["attention_norm"],
              "cross": layer["attention"],
            }
      return found

    return {
      "source_embedding": (self.source_size, dim),
      "embedding": (vocab, dim),
      "encoder": stack(config.encoder, cross=False),
      "decoder": stack(config.transformer, cross=True),
      "head": (vocab, dim),
    }

  def loss(
    self,
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    key: RandomKey | None = None,
    z_loss: float = 0.0,
  ) -> tuple[Scalar, Mapping[str, Scalar]]:
    """Returns the loss and the metrics of `conditioned_loss.conditioned_loss`."""
    from audiolm_jax.lm.conditioned_loss import conditioned_loss

    return conditioned_loss(self, config, params, batch, key=key, z_loss=z_loss)

  def inference_params(self, params: Params) -> Params:
    """Returns the parameters with unstacked layers."""
    from audiolm_jax.lm.transformer import unstack_layers

    stacks = {name: unstack_layers(params[name]) for name in ("encoder", "decoder")}
    return dict(params) | stacks

  def training_params(self, config: ModelConfig, params: Params) -> Params:
    """Returns the parameters with stacked layers if `scan_layers` of the transformer is True."""
    from audiolm_jax.lm.transformer import stack_layers

    if not config.transformer.scan_layers:
      return params
    return dict(params) | {name: stack_layers(params[name]) for name in ("encoder", "decoder")}

  def flops_per_step(self, config: ModelConfig, batch: ShapedBatch) -> float:
    """Returns the FLOPs of one update; the backward pass counts as two forward passes."""
    c, (rows, targets) = config.transformer, batch["decoder_target_tokens"].shape
    sources, inner = self.source_length, c.num_heads * c.head_size
    # `TransformerConfig.forward_flops` counts only the keys up to each query, not the later keys.
    both_ways = 2.0 * config.encoder_layers * sources * (sources - 1) * inner
    projections = 4.0 * c.dim * (targets * inner + sources * c.kv_heads * c.head_size)
    cross = c.num_layers * (projections + 4.0 * targets * sources * inner)
    output = 2.0 * targets * (self.target_size + 1) * c.dim
    encoder = config.encoder.forward_flops(sources) + both_ways
    return 3 * rows * (encoder + c.forward_flops(targets) + cross + output)

  def model(self, config: ModelConfig, deterministic: bool = True) -> Any:
    """Returns the model with the vocabularies of the stage."""
    from audiolm_jax.lm.conditioned_model import ConditionedModel

    return ConditionedModel(
      config, self.source_size, self.target_size, self.layout.vocab_size, deterministic
    )


def at_rate(
  semantic: Integer[np.ndarray, "steps"], rate: float
) -> Integer[np.ndarray, "new_steps"]:
  """Multiplies the duration of semantic tokens by 1 / `rate`: repeats or drops tokens."""
  count = max(1, math.floor(len(semantic) / rate + 0.5))
  middles = (np.arange(count) + 0.5) * (len(semantic) / count)
  return np.asarray(semantic)[middles.astype(np.int64)]


def text_stage(*, streams: Mapping[str, Stream] | None = None, **stated: object) -> ConditionedSpec:
  """Returns a stage that predicts semantic tokens from text, for text to speech.

  Args:
    streams: streams of the tokens by key, such as those of a token store; see `configured`.
    **stated: values of fields by name; see `configured`.
  """
  return configured(ConditionedSpec("text"), streams, stated)


def speech_stage(
  *, streams: Mapping[str, Stream] | None = None, **stated: object
) -> ConditionedSpec:
  """Returns a stage that translates speech: it reads the semantic tokens of another recording.

  Args:
    streams: see `text_stage`.
    **stated: values of fields by name; see `configured`.
  """
  return configured(ConditionedSpec("speech", ConditionedSource.SEMANTIC), streams, stated)


def transcript_stage(
  *, streams: Mapping[str, Stream] | None = None, **stated: object
) -> ConditionedSpec:
  """Returns a stage that recognizes speech: a text stage with source and target exchanged.

  Args:
    streams: see `text_stage`.
    **stated: values of fields by name; see `configured`.
  """
  spec = ConditionedSpec("transcript", ConditionedSource.SEMANTIC, target=Target.TEXT)
  return configured(spec, streams, stated)
