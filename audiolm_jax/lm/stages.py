"""Autoregressive stages: one decoder-only transformer over a row of tokens.

The input of a stage is its sequence, shifted right by a begin token. In the table of sequences, z_t
is semantic token t, and y_t^q is the code of frame t at level q. Of the Q levels of the codec, the
first Q' levels are coarse.

    stage      sequence
    semantic   z_1 z_2 ...
    coarse     z_1 z_2 ... SEPARATOR y_1^1 .. y_1^Q' y_2^1 ...
    fine       y_1^1 .. y_1^Q' y_2^1 ... SEPARATOR y_1^(Q'+1) .. y_1^Q y_2^(Q'+1) ...
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.modules import Batch, Params, RandomKey, ShapedBatch
from audiolm_jax.core.ranges import DepthOrNone, Rate, Seconds, Steps, StreamSize, Vocabulary
from audiolm_jax.core.shapes import Shapes
from audiolm_jax.core.streams import CODES, SEMANTIC, Record, Stream
from audiolm_jax.lm.stage import (
  Example,
  Feature,
  ModelConfig,
  Scalar,
  StageSpec,
  configured,
  vocabularies_and_rates,
)
from audiolm_jax.lm.tokens import BOS, PAD, SEPARATOR, TokenLayout, collapse_repeats, cut_runs

# Sampling temperatures of the paper's stages. Source: AudioLM, section IV-B.
PAPER_TEMPERATURES = {"semantic": 0.6, "coarse": 0.8, "fine": 0.6}


class Source(enum.StrEnum):
  """The tokens that a stage is conditioned on."""

  NONE = "none"
  SEMANTIC = "semantic"
  COARSE = "coarse"


@dataclasses.dataclass(frozen=True)
class AutoregressiveSpec(StageSpec):
  """A stage that predicts its tokens one after another.

  Attributes:
    source: tokens before the separator, see `Source`; a string becomes a `Source`.
    num_source_quantizers: number of acoustic levels of the source; 0 unless `source` is COARSE.
    num_target_quantizers: number of acoustic levels to predict, which follow the levels of the
      source; 0 if the targets are semantic tokens.
    crop_seconds: duration of a training example and of the longest window in sampling.
    collapse_repeats: whether to drop semantic tokens that equal the previous token.
    longest_run: for a semantic stage that keeps repeats, the maximum number of equal tokens in a
      row, in training and in sampling; None for no limit. If training clips end with a pause, a
      stage without a limit learns that pauses never end.
    semantic_rate: semantic tokens per second, before repeats are collapsed.
    frame_rate: acoustic frames per second.
    num_clusters: size of the semantic vocabulary.
    codebook_size: codes per quantizer.

  Source: AudioLM, section III-C and section IV.
  """

  source: Source | str
  num_source_quantizers: DepthOrNone = 0
  num_target_quantizers: DepthOrNone = 0
  crop_seconds: Seconds = 10.0
  collapse_repeats: bool = True
  longest_run: Steps | None = None
  semantic_rate: Rate = 25.0
  frame_rate: Rate = 50.0
  num_clusters: StreamSize = 1024
  codebook_size: Vocabulary = 1024
  kind: str = dataclasses.field(default="autoregressive", kw_only=True)

  def __post_init__(self):
    configs.set_members(self, "stage", source=Source)
    if (self.source is Source.COARSE) != (self.num_source_quantizers > 0):
      raise ConfigError(
        f"stage {self.name!r} has source {str(self.source)!r} and num_source_quantizers "
        f"{self.num_source_quantizers}; only a coarse source has quantizers, at least one"
      )
    if self.num_target_quantizers == 0 and self.source is not Source.NONE:
      raise ConfigError(f"stage {self.name!r} predicts semantic tokens, so its source must be none")
    if self.longest_run is not None and (
      self.longest_run < 1 or not self.predicts_semantic or self.collapse_repeats
    ):
      raise ConfigError(
        f"stage {self.name!r} has longest_run {self.longest_run}; it must be at least 1, and is "
        "only for stages that predict semantic tokens and keep repeats"
      )

  @property
  def reads(self) -> tuple[Stream, ...]:
    """Semantic tokens, coarse levels of the codes, or nothing."""
    if self.source is Source.SEMANTIC:
      return (self._semantic,)
    return (self._codes(0, self.num_source_quantizers),) if self.source is Source.COARSE else ()

  @property
  def writes(self) -> Stream:
    """Semantic tokens, or the levels of the codes after the levels of the source."""
    if self.predicts_semantic:
      return self._semantic
    return self._codes(self.first_target_quantizer, self.num_target_quantizers)

  @property
  def samples_in_time_order(self) -> bool:
    """Whether each code is sampled after all codes of earlier frames; False for a coarse source."""
    return self.source is not Source.COARSE

  @property
  def collapsed(self) -> frozenset[str]:
    """The key of semantic tokens if their repeats are dropped; else empty."""
    return frozenset({SEMANTIC} if self.uses_semantic and self.collapse_repeats else ())

  @property
  def crop_length(self) -> float:
    """Duration of a training example in seconds."""
    return self.crop_seconds

  def features(self) -> dict[str, Feature]:
    """Returns the shapes and dtypes of the arrays of `stage_features`."""
    ids = Feature((self.max_length,))
    return {
      "decoder_input_tokens": ids,
      "decoder_target_tokens": ids,
      "decoder_loss_weights": Feature((self.max_length,), np.float32),
      "decoder_frame_ids": ids,
    }

  def example(self, record: Record) -> Example:
    """Returns the arrays of `stage_features` for one crop."""
    return stage_features(self, record.get(SEMANTIC), record.get(CODES))

  def numbers_of(self, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """Returns vocabularies and rates of tokens, and the number of levels that the stage predicts.

    Raises:
      DataError: the codes have no levels after the levels of the source.
    """
    found = vocabularies_and_rates(streams)
    codes = streams.get(CODES)
    if codes is not None and not self.predicts_semantic:
      levels = codes.levels - self.first_target_quantizer
      if levels < 1:
        raise DataError(
          f"the {self.name} stage predicts the levels of codes after the first "
          f"{self.first_target_quantizer}, its tokens have {codes.levels}; leave this stage out"
        )
      found["num_target_quantizers"] = min(self.num_target_quantizers, levels)
    return found

  @classmethod
  def config_class(cls) -> type[ModelConfig]:
    """Returns the configuration class of the transformer."""
    from audiolm_jax.lm.config import TransformerConfig

    return TransformerConfig

  def check_config(self, config: ModelConfig) -> None:
    """Raises a `ConfigError` if the table of frame embeddings is too small for a crop."""
    rows, needed = config.num_frame_embeddings, num_frame_ids(self)
    if 0 < rows < needed:
      raise ConfigError(
        f"num_frame_embeddings {rows} is less than the {needed} frame ids of a "
        f"{self.crop_seconds:g} s {self.name} crop; raise it, or set 0 for none"
      )

  def shape_of(self, config: ModelConfig) -> ModelConfig:
    """Returns the shape of the transformer, see `TransformerConfig.shape`."""
    return config.shape()

  def init(self, config: ModelConfig, key: RandomKey, batch: Batch) -> Params:
    """Returns new parameters of the transformer."""
    import jax.numpy as jnp

    # No parameter depends on the length; a short row initializes fast.
    tokens = jnp.zeros((len(batch["decoder_input_tokens"]), 8), jnp.int32)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    return self.model(config).init(key, tokens, tokens)["params"]

  def parameter_shapes(self, config: ModelConfig) -> Shapes:
    """Returns the shapes of the parameters of the transformer."""
    return config.parameter_shapes(self.layout.vocab_size)

  def loss(
    self,
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    key: RandomKey | None = None,
    z_loss: float = 0.0,
  ) -> tuple[Scalar, Mapping[str, Scalar]]:
    """Returns the loss and the metrics of `loss.stage_loss`."""
    from audiolm_jax.lm.loss import stage_loss

    model = self.model(config, deterministic=key is None or config.dropout_rate == 0)
    return stage_loss(self, model, params, batch, z_loss=z_loss, dropout_key=key)

  def inference_params(self, params: Params) -> Params:
    """Returns the parameters with unstacked layers."""
    from audiolm_jax.lm.transformer import unstack_layers

    return unstack_layers(params)

  def training_params(self, config: ModelConfig, params: Params) -> Params:
    """Returns the parameters with stacked layers if `config.scan_layers` is True."""
    from audiolm_jax.lm.transformer import stack_layers

    return stack_layers(params) if config.scan_layers else params

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns {"tokens": number of source, separator and target tokens of a batch}."""
    return {"tokens": float(np.count_nonzero(batch["decoder_target_tokens"] != PAD))}

  def flops_per_step(self, config: ModelConfig, batch: ShapedBatch) -> float:
    """Returns the FLOPs of one update; the backward pass counts as two forward passes."""
    rows, length = batch["decoder_target_tokens"].shape
    first = self.layout.legal_range(0, self.first_target_quantizer, self.num_target_quantizers)
    output = 2 * self.num_targets(length) * first.size * config.dim
    return 3 * rows * (config.forward_flops(length) + output)

  def model(self, config: ModelConfig, deterministic: bool = True) -> Any:
    """Returns the transformer over the vocabulary of the stage."""
    from audiolm_jax.lm.transformer import Transformer

    return Transformer(config, self.layout.vocab_size, deterministic)

  def num_targets(self, length: int) -> int:
    """Returns the largest number of target tokens in a row of `length` tokens.

    The number is rounded down to whole frames.
    """
    per_frame = max(self.num_target_quantizers, 1)
    return min(self.max_target_length, length) // per_frame * per_frame

  @property
  def predicts_semantic(self) -> bool:
    """Whether the targets are semantic tokens rather than acoustic codes."""
    return self.num_target_quantizers == 0

  @property
  def uses_semantic(self) -> bool:
    """Whether semantic tokens occur in the sequence."""
    return self.predicts_semantic or self.source is Source.SEMANTIC

  @property
  def run_limit(self) -> int | None:
    """Maximum number of equal semantic tokens in a row; None for no limit."""
    return 1 if self.collapse_repeats else self.longest_run

  @property
  def first_target_quantizer(self) -> int:
    """Index of the first acoustic level that the stage predicts."""
    return self.num_source_quantizers

  @property
  def num_quantizers(self) -> int:
    """Number of acoustic levels in the sequence, source and target together."""
    return self.num_source_quantizers + self.num_target_quantizers

  @property
  def layout(self) -> TokenLayout:
    """The vocabulary of the stage."""
    clusters = self.num_clusters if self.uses_semantic else 0
    return TokenLayout(clusters, self.num_quantizers, self.codebook_size)

  @property
  def crop_frames(self) -> int:
    """Number of acoustic frames in one crop."""
    return round(self.crop_seconds * self.frame_rate)

  @property
  def crop_steps(self) -> int:
    """Number of semantic tokens in one crop, before repeats are collapsed."""
    return round(self.crop_seconds * self.semantic_rate)

  @property
  def frames_per_step(self) -> int:
    """Number of acoustic frames per semantic token, rounded, at least 1.

    Windows in sampling begin at multiples of this number.
    """
    return max(1, round(self.frame_rate / self.semantic_rate))

  @property
  def max_source_length(self) -> int:
    """Maximum number of source tokens in one crop, including the separator."""
    if self.source is Source.SEMANTIC:
      return self.crop_steps + 1
    if self.source is Source.COARSE:
      return self.crop_frames * self.num_source_quantizers + 1
    return 0

  @property
  def max_target_length(self) -> int:
    """Maximum number of target tokens in one crop."""
    if self.predicts_semantic:
      return self.crop_steps
    return self.crop_frames * self.num_target_quantizers

  @property
  def max_length(self) -> int:
    """Number of tokens in a padded training example."""
    return self.max_source_length + self.max_target_length

  @property
  def max_frame_id(self) -> int:
    """The largest frame id of a crop (see `stage_sequence`)."""
    return 0 if self.predicts_semantic else self.crop_frames

  @property
  def _semantic(self) -> Stream:
    return Stream(SEMANTIC, self.num_clusters, self.semantic_rate)

  def _codes(self, first_level: int, levels: int) -> Stream:
    return Stream(CODES, self.codebook_size, self.frame_rate, levels, first_level)


class StageSequence(NamedTuple):
  """One example before shifting and padding.

  Attributes:
    tokens: ids in the layout of the stage.
    loss_weights: 1 on predicted tokens, 0 on the source and the separator.
    frame_ids: see `stage_sequence`.
  """

  tokens: Int[np.ndarray, "length"]
  loss_weights: Float[np.ndarray, "length"]
  frame_ids: Int[np.ndarray, "length"]


def stage_sequence(
  spec: AutoregressiveSpec,
  semantic: Integer[np.ndarray, "steps"] | None = None,
  codes: Integer[np.ndarray, "frames quantizers"] | None = None,
) -> StageSequence:
  """Returns the tokens of one crop in the order in which the stage reads them.

  Args:
    spec: the stage.
    semantic: semantic tokens with repeats; required if the stage uses them.
    codes: acoustic codes of at least `spec.num_quantizers` levels; required if the stage uses them.

  Returns:
    The sequence. An acoustic token of frame t has frame id 1 + t, in source and target. If repeats
    are kept, a semantic source token has the id of the first frame that it covers. All other tokens
    have frame id 0.

  Raises:
    DataError: an input is missing, has too few levels, or has values outside of the stage's
      vocabulary.
  """
  given: Record = {k: v for k, v in ((SEMANTIC, semantic), (CODES, codes)) if v is not None}
  present = {key: s.of(given, f"the {spec.name} stage") for key, s in spec.streams.items()}
  parts: list[tuple[np.ndarray, np.ndarray, float]] = []
  if spec.uses_semantic:
    parts.append(_semantic_part(spec, present[SEMANTIC]))
  if not spec.predicts_semantic:
    codes, split = present[CODES], spec.num_source_quantizers
    if split:
      parts.append(_acoustic_part(spec, codes[:, :split], 0, 0.0))
    if spec.source is not Source.NONE:
      parts.append((np.array([SEPARATOR]), np.array([0]), 0.0))
    parts.append(_acoustic_part(spec, codes[:, split:], split, 1.0))
  return StageSequence(
    tokens=np.concatenate([tokens for tokens, _, _ in parts]).astype(np.int32),
    loss_weights=np.concatenate([np.full(len(t), w, np.float32) for t, _, w in parts]),
    frame_ids=np.concatenate([frames for _, frames, _ in parts]).astype(np.int32),
  )


def stage_features(
  spec: AutoregressiveSpec,
  semantic: Integer[np.ndarray, "steps"] | None = None,
  codes: Integer[np.ndarray, "frames quantizers"] | None = None,
) -> Example:
  """Returns one crop as features of the decoder, padded to `spec.max_length`.

  Args:
    spec: the stage.
    semantic: see `stage_sequence`.
    codes: see `stage_sequence`.

  Returns:
    `decoder_target_tokens` int32 [max_length]; `decoder_input_tokens`, the targets shifted right by
    a begin token; `decoder_loss_weights` float32, 1 on predicted tokens; `decoder_frame_ids` int32,
    the frame id of the *target* at each position, which is known before the target is sampled.

  Raises:
    DataError: the sequence is longer than `spec.max_length`; also see `stage_sequence`.
  """
  sequence = stage_sequence(spec, semantic, codes)
  count = len(sequence.tokens)
  if count > spec.max_length:
    raise DataError(
      f"a {spec.name} example of {count} tokens exceeds the stage's {spec.max_length}; "
      f"crop it to {spec.crop_seconds:g} s"
    )
  space = (0, spec.max_length - count)
  targets = np.pad(sequence.tokens, space, constant_values=PAD)
  inputs = np.concatenate([[BOS], targets[:-1]]).astype(np.int32)
  inputs[count:] = PAD
  return {
    "decoder_input_tokens": inputs,
    "decoder_target_tokens": targets,
    "decoder_loss_weights": np.pad(sequence.loss_weights, space),
    "decoder_frame_ids": np.pad(sequence.frame_ids, space),
  }


def semantic_frame_ids(spec: AutoregressiveSpec, first_step: int, count: int) -> np.ndarray:
  """Returns the frame ids of `count` semantic source tokens from step `first_step` on.

  The ids are 0 if the stage predicts semantic tokens. They are also 0 if repeats are collapsed,
  because the tokens then have no position in time.
  """
  if spec.collapse_repeats or spec.predicts_semantic:
    return np.zeros(count, np.int32)
  steps = first_step + np.arange(count)
  return (1 + np.floor(steps * (spec.frame_rate / spec.semantic_rate))).astype(np.int32)


def semantic_stage(
  *, streams: Mapping[str, Stream] | None = None, **stated: object
) -> AutoregressiveSpec:
  """Returns the paper's first stage, which predicts semantic tokens in crops of 30 s.

  Args:
    streams: streams of the tokens by key, such as those of a token store; see `configured`.
    **stated: values of fields by name; see `configured`.
  """
  return configured(AutoregressiveSpec("semantic", Source.NONE, crop_seconds=30.0), streams, stated)


def coarse_stage(
  *, streams: Mapping[str, Stream] | None = None, **stated: object
) -> AutoregressiveSpec:
  """Returns the paper's second stage.

  It predicts 4 acoustic levels from semantic tokens in crops of 10 s.

  Args:
    streams: see `semantic_stage`; if the codes have fewer levels, the stage predicts all levels.
    **stated: values of fields by name; see `configured`.
  """
  spec = AutoregressiveSpec("coarse", Source.SEMANTIC, num_target_quantizers=4, crop_seconds=10.0)
  return configured(spec, streams, stated)


def fine_stage(
  *, streams: Mapping[str, Stream] | None = None, **stated: object
) -> AutoregressiveSpec:
  """Returns the paper's third stage.

  It predicts acoustic levels 5 to 12 from levels 1 to 4 in crops of 3 s.

  Args:
    streams: see `semantic_stage`; if the codes have fewer than 12 levels, the stage predicts all
      levels after the fourth.
    **stated: values of fields by name; see `configured`.
  """
  spec = AutoregressiveSpec(
    "fine", Source.COARSE, num_source_quantizers=4, num_target_quantizers=8, crop_seconds=3.0
  )
  return configured(spec, streams, stated)


def num_frame_ids(spec: AutoregressiveSpec) -> int:
  """Returns the number of frame ids of a crop: the rows that a table of frame embeddings needs."""
  return spec.max_frame_id + 1


def paper_stages(
  *,
  semantic_rate: float = 25.0,
  num_clusters: int = 1024,
  frame_rate: float = 50.0,
  num_quantizers: int = 12,
  codebook_size: int = 1024,
  num_coarse: int = 4,
) -> dict[str, AutoregressiveSpec]:
  """Returns the paper's stages for given tokenizers; no fine stage if it would have no levels.

  The defaults are those of the paper's speech system. The paper's piano system has 3 levels with
  2^14 codes each.

  Args:
    semantic_rate: semantic tokens per second, before repeats are collapsed.
    num_clusters: size of the semantic vocabulary.
    frame_rate: acoustic frames per second.
    num_quantizers: number of levels of the codec.
    codebook_size: codes per level.
    num_coarse: number of levels that the coarse stage predicts, at most `num_quantizers`.

  Returns:
    The stages by name.
  """
  numbers: dict[str, Any] = {
    "semantic_rate": semantic_rate,
    "num_clusters": num_clusters,
    "frame_rate": frame_rate,
    "codebook_size": codebook_size,
  }
  num_coarse = min(num_coarse, num_quantizers)
  specs = {
    "semantic": semantic_stage(**numbers),
    "coarse": coarse_stage(num_target_quantizers=num_coarse, **numbers),
  }
  if num_quantizers > num_coarse:
    specs["fine"] = fine_stage(
      num_source_quantizers=num_coarse,
      num_target_quantizers=num_quantizers - num_coarse,
      **numbers,
    )
  return specs


def _semantic_part(
  spec: AutoregressiveSpec, semantic: Integer[np.ndarray, "steps"]
) -> tuple[np.ndarray, np.ndarray, float]:
  semantic = cut_runs(semantic, spec.run_limit)
  frames = semantic_frame_ids(spec, 0, len(semantic))
  return spec.layout.semantic_to_ids(semantic), frames, float(spec.predicts_semantic)


def _acoustic_part(
  spec: AutoregressiveSpec, codes: np.ndarray, first_quantizer: int, weight: float
) -> tuple[np.ndarray, np.ndarray, float]:
  frames = np.repeat(1 + np.arange(len(codes)), codes.shape[-1])
  return spec.layout.flatten_codes(codes, first_quantizer), frames, weight


def collapsed_rate(semantic: Integer[np.ndarray, "steps"], semantic_rate: float) -> float:
  """Returns the number of tokens per second after repeats are collapsed; NaN without tokens.

  Args:
    semantic: semantic tokens with repeats.
    semantic_rate: number of tokens per second with repeats.
  """
  if len(semantic) == 0:
    return math.nan
  return len(collapse_repeats(semantic)) * semantic_rate / len(semantic)
