"""Autoregressive stages: one decoder-only transformer over a row of tokens.

The sequences; the input is the same, shifted right by a begin token:

    stage      sequence
    semantic   z_1 z_2 ...
    coarse     z_1 z_2 ... SEPARATOR y_1^1 .. y_1^Q' y_2^1 ...
    fine       y_1^1 .. y_1^Q' y_2^1 ... SEPARATOR y_1^(Q'+1) .. y_1^Q y_2^(Q'+1) ...
"""

import dataclasses
import enum
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.streams import CODES, SEMANTIC, Record, Stream
from audiolm_jax.lm.stage import Batch, Example, Feature, StageSpec
from audiolm_jax.lm.tokens import BOS, PAD, SEPARATOR, TokenLayout, collapse_repeats, cut_runs

# Of the paper's stages. Source: AudioLM, section IV-B.
PAPER_TEMPERATURES = {"semantic": 0.6, "coarse": 0.8, "fine": 0.6}


class Source(enum.StrEnum):
  """What a stage is conditioned on."""

  NONE = "none"
  SEMANTIC = "semantic"
  COARSE = "coarse"


@dataclasses.dataclass(frozen=True)
class AutoregressiveSpec(StageSpec):
  """A stage that predicts its tokens one after another.

  Attributes:
    source: what stands before the separator.
    num_source_quantizers: acoustic levels in the source; 0 unless `source` is COARSE.
    num_target_quantizers: acoustic levels predicted, those after the source's; 0 means that
      semantic tokens are predicted.
    crop_seconds: length of a training example, and the longest window when sampling.
    collapse_repeats: drop repeated semantic tokens.
    longest_run: if a semantic stage keeps repeats, how many of one token in a row it reads and
      draws; None for any number. Where only the end of a clip ends its last pause, a stage
      without a limit learns that pauses never end.
    semantic_rate: semantic tokens per second, before repeats are collapsed.
    frame_rate: acoustic frames per second.
    num_clusters: semantic vocabulary.
    codebook_size: codes per quantizer.
  Source: AudioLM, section III-C and section IV.
  """

  source: Source
  num_source_quantizers: int = 0
  num_target_quantizers: int = 0
  crop_seconds: float = 10.0
  collapse_repeats: bool = True
  longest_run: int | None = None
  semantic_rate: float = 25.0
  frame_rate: float = 50.0
  num_clusters: int = 1024
  codebook_size: int = 1024
  kind: str = dataclasses.field(default="autoregressive", kw_only=True)

  def __post_init__(self):
    try:
      object.__setattr__(self, "source", Source(self.source))
    except ValueError:
      choices = ", ".join(Source)
      raise ConfigError(f"stage source {self.source!r} is not one of {choices}") from None
    if (self.source is Source.COARSE) != (self.num_source_quantizers > 0):
      raise ConfigError(
        f"stage {self.name!r} has source {self.source.value!r} and num_source_quantizers "
        f"{self.num_source_quantizers}; only a coarse source has quantizers, at least one"
      )
    if self.num_target_quantizers == 0 and self.source is not Source.NONE:
      raise ConfigError(f"stage {self.name!r} predicts semantic tokens, so its source must be none")
    if self.longest_run is not None and (
      self.longest_run < 1 or not self.predicts_semantic or self.collapse_repeats
    ):
      raise ConfigError(
        f"stage {self.name!r} has longest_run {self.longest_run}; it must be at least 1, and is "
        "for stages that predict semantic tokens and do not collapse repeats"
      )

  @property
  def reads(self) -> tuple[Stream, ...]:
    """Semantic tokens, coarse levels of the codes, or nothing."""
    if self.source is Source.SEMANTIC:
      return (self._semantic,)
    return (self._codes(0, self.num_source_quantizers),) if self.source is Source.COARSE else ()

  @property
  def writes(self) -> Stream:
    """Semantic tokens, or the levels of the codes after those of the source."""
    if self.predicts_semantic:
      return self._semantic
    return self._codes(self.first_target_quantizer, self.num_target_quantizers)

  @property
  def collapsed(self) -> frozenset[str]:
    """Semantic tokens, where their repeats are dropped."""
    return frozenset({SEMANTIC} if self.uses_semantic and self.collapse_repeats else ())

  @property
  def crop_length(self) -> float:
    """Seconds of a training example."""
    return self.crop_seconds

  def features(self) -> dict[str, Feature]:
    """As `stage_features` makes them."""
    ids = Feature((self.max_length,))
    return {
      "decoder_input_tokens": ids,
      "decoder_target_tokens": ids,
      "decoder_loss_weights": Feature((self.max_length,), np.float32),
      "decoder_frame_ids": ids,
    }

  def example(self, record: Record) -> Example:
    """See `stage_features`."""
    return stage_features(self, record.get(SEMANTIC), record.get(CODES))

  @classmethod
  def config_class(cls) -> type:
    """That of the transformer."""
    from audiolm_jax.lm.config import TransformerConfig

    return TransformerConfig

  def check_config(self, config: Any) -> None:
    """Refuses a table of frame embeddings that a crop does not fit into."""
    rows, needed = config.num_frame_embeddings, self.max_frame_id + 1
    if 0 < rows < needed:
      raise ConfigError(
        f"num_frame_embeddings {rows} is less than the {needed} frame ids of a "
        f"{self.crop_seconds:g} s {self.name} crop; raise it, or set 0 for none"
      )

  def shape_of(self, config: Any) -> Any:
    """That of the transformer."""
    return config.shape()

  def init(self, config: Any, rng: Any, batch: Batch) -> Any:
    """Parameters of the transformer."""
    import jax.numpy as jnp

    # No parameter depends on the length; a short one keeps initialisation cheap.
    tokens = jnp.zeros((len(batch["decoder_input_tokens"]), 8), jnp.int32)
    return self.model(config).init(rng, tokens, tokens)["params"]

  def loss(
    self, config: Any, params: Any, batch: Batch, *, rng: Any = None, z_loss: float = 0.0
  ) -> tuple[Any, dict[str, Any]]:
    """See `loss.stage_loss`."""
    from audiolm_jax.lm.loss import stage_loss

    model = self.model(config, deterministic=rng is None or config.dropout_rate == 0)
    return stage_loss(self, model, params, batch, z_loss=z_loss, dropout_rng=rng)

  def inference_params(self, params: Any) -> dict[str, Any]:
    """With layers unstacked."""
    from audiolm_jax.lm.transformer import unstack_layers

    return unstack_layers(params)

  def training_params(self, config: Any, params: Any) -> Any:
    """With layers stacked where the configuration scans over them."""
    from audiolm_jax.lm.transformer import stack_layers

    return stack_layers(params) if config.scan_layers else params

  def amounts(self, batch: Batch) -> dict[str, float]:
    """How many tokens a batch holds, source and target, without padding."""
    return {"tokens": float(np.count_nonzero(batch["decoder_target_tokens"] != PAD))}

  def flops_per_step(self, config: Any, batch: Batch) -> float:
    """Of one update; the backward pass of a matrix product is two more of its size."""
    rows, length = batch["decoder_target_tokens"].shape
    first = self.layout.legal_range(0, self.first_target_quantizer, self.num_target_quantizers)
    output = 2 * self.num_targets(length) * first.size * config.embed_dim
    return 3 * rows * (config.forward_flops(length) + output)

  def model(self, config: Any, deterministic: bool = True) -> Any:
    """The transformer over the stage's vocabulary."""
    from audiolm_jax.lm.transformer import Transformer

    return Transformer(config, self.layout.vocab_size, deterministic)

  def num_targets(self, length: int) -> int:
    """Positions at which the output layer is evaluated in a row of `length` tokens."""
    per_frame = max(self.num_target_quantizers, 1)
    return min(self.max_target_length, length) // per_frame * per_frame

  @property
  def predicts_semantic(self) -> bool:
    """Whether the targets are semantic tokens rather than acoustic codes."""
    return self.num_target_quantizers == 0

  @property
  def uses_semantic(self) -> bool:
    """Whether semantic tokens occur in the sequence at all."""
    return self.predicts_semantic or self.source is Source.SEMANTIC

  @property
  def run_limit(self) -> int | None:
    """Most equal semantic tokens in a row; None for any number."""
    return 1 if self.collapse_repeats else self.longest_run

  @property
  def first_target_quantizer(self) -> int:
    """The first acoustic level that is predicted."""
    return self.num_source_quantizers

  @property
  def num_quantizers(self) -> int:
    """Acoustic levels that occur in the sequence, source and target together."""
    return self.num_source_quantizers + self.num_target_quantizers

  @property
  def layout(self) -> TokenLayout:
    """The stage's own vocabulary."""
    clusters = self.num_clusters if self.uses_semantic else 0
    return TokenLayout(clusters, self.num_quantizers, self.codebook_size)

  @property
  def crop_frames(self) -> int:
    """Acoustic frames in one crop."""
    return round(self.crop_seconds * self.frame_rate)

  @property
  def crop_steps(self) -> int:
    """Semantic tokens in one crop, before repeats are collapsed."""
    return round(self.crop_seconds * self.semantic_rate)

  @property
  def frames_per_step(self) -> int:
    """Acoustic frames per semantic token, rounded, at least 1; windows begin at its multiples."""
    return max(1, round(self.frame_rate / self.semantic_rate))

  @property
  def max_source_length(self) -> int:
    """Longest source, the separator included."""
    if self.source is Source.SEMANTIC:
      return self.crop_steps + 1
    if self.source is Source.COARSE:
      return self.crop_frames * self.num_source_quantizers + 1
    return 0

  @property
  def max_target_length(self) -> int:
    """Most target tokens in one crop."""
    if self.predicts_semantic:
      return self.crop_steps
    return self.crop_frames * self.num_target_quantizers

  @property
  def max_length(self) -> int:
    """The padded length of a training example."""
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
    tokens: ids of the stage's layout.
    loss_weights: 1 on predicted tokens, 0 on the source and the separator.
    frame_ids: see `stage_sequence`.
  """

  tokens: Int[np.ndarray, "length"]
  loss_weights: Float[np.ndarray, "length"]
  frame_ids: Int[np.ndarray, "length"]


def stage_sequence(
  spec: AutoregressiveSpec,
  semantic: Int[np.ndarray, "steps"] | None = None,
  codes: Int[np.ndarray, "frames quantizers"] | None = None,
) -> StageSequence:
  """The tokens of one crop in the order in which the stage reads them.

  Args:
    semantic: semantic tokens, repeats not yet collapsed; needed if the stage uses them.
    codes: acoustic codes with at least `spec.num_quantizers` levels; needed if the stage uses them.
  Returns:
    A sequence whose `frame_ids` are 1 + t for an acoustic token of frame t, source and target
    alike. A semantic source token whose place in time is known (repeats kept) has the id of the
    first frame it covers; all other tokens have 0.
  Raises:
    DataError: an input is missing, or its values lie outside the stage's vocabulary.
  """
  given: Record = {k: v for k, v in ((SEMANTIC, semantic), (CODES, codes)) if v is not None}
  there = {key: s.of(given, f"the {spec.name} stage") for key, s in spec.streams.items()}
  parts: list[tuple[np.ndarray, np.ndarray, float]] = []
  if spec.uses_semantic:
    parts.append(_semantic_part(spec, there[SEMANTIC]))
  if not spec.predicts_semantic:
    codes, split = there[CODES], spec.num_source_quantizers
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
  semantic: Int[np.ndarray, "steps"] | None = None,
  codes: Int[np.ndarray, "frames quantizers"] | None = None,
) -> Example:
  """One crop as the decoder's features, padded to `spec.max_length`.

  Returns:
    `decoder_target_tokens` int32 [max_length]; `decoder_input_tokens`, the same shifted right by a
    begin token; `decoder_loss_weights` float32, 1 on predicted tokens; `decoder_frame_ids` int32,
    the frame id of the *target* at each position, which a sampler knows in advance.
  Raises:
    DataError: the crop is longer than the stage's, or as `stage_sequence`.
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
  """Frame ids of `count` semantic source tokens, the first of them at step `first_step`."""
  if spec.collapse_repeats or spec.predicts_semantic:
    return np.zeros(count, np.int32)
  steps = first_step + np.arange(count)
  return (1 + np.floor(steps * (spec.frame_rate / spec.semantic_rate))).astype(np.int32)


def semantic_stage(**overrides: Any) -> AutoregressiveSpec:
  """The paper's first stage: semantic tokens from semantic tokens, 30 s crops."""
  defaults: dict[str, Any] = {"name": "semantic", "source": Source.NONE, "crop_seconds": 30.0}
  return AutoregressiveSpec(**(defaults | overrides))


def coarse_stage(**overrides: Any) -> AutoregressiveSpec:
  """The paper's second stage: the first 4 acoustic levels given semantic tokens, 10 s crops."""
  defaults: dict[str, Any] = {
    "name": "coarse",
    "source": Source.SEMANTIC,
    "num_target_quantizers": 4,
    "crop_seconds": 10.0,
  }
  return AutoregressiveSpec(**(defaults | overrides))


def fine_stage(**overrides: Any) -> AutoregressiveSpec:
  """The paper's third stage: acoustic levels 5 to 12 given the first 4, 3 s chunks."""
  defaults: dict[str, Any] = {
    "name": "fine",
    "source": Source.COARSE,
    "num_source_quantizers": 4,
    "num_target_quantizers": 8,
    "crop_seconds": 3.0,
  }
  return AutoregressiveSpec(**(defaults | overrides))


def acoustic_only_stage(**overrides: Any) -> AutoregressiveSpec:
  """The paper's ablation: coarse acoustic levels without semantic tokens."""
  return coarse_stage(**({"source": Source.NONE} | overrides))


def speech_stages(**overrides: Any) -> dict[str, AutoregressiveSpec]:
  """The three stages of the paper's speech system; `overrides` go to all of them."""
  return {
    "semantic": semantic_stage(**overrides),
    "coarse": coarse_stage(**overrides),
    "fine": fine_stage(**overrides),
  }


def piano_stages(**overrides: Any) -> dict[str, AutoregressiveSpec]:
  """The paper's piano system: 3 levels of 2^14 codes, all predicted by the coarse stage."""
  overrides = {"codebook_size": 2**14} | overrides
  return {
    "semantic": semantic_stage(**overrides),
    "coarse": coarse_stage(**({"num_target_quantizers": 3} | overrides)),
  }


def paper_stages(
  *,
  semantic_rate: float,
  num_clusters: int,
  frame_rate: float,
  num_quantizers: int,
  codebook_size: int,
  num_coarse: int = 4,
) -> dict[str, AutoregressiveSpec]:
  """The paper's stages for tokenizers with these numbers; no fine stage where no level is left."""
  numbers = {
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


def _semantic_part(spec: AutoregressiveSpec, semantic) -> tuple[np.ndarray, np.ndarray, float]:
  semantic = cut_runs(semantic, spec.run_limit)
  frames = semantic_frame_ids(spec, 0, len(semantic))
  return spec.layout.semantic_to_ids(semantic), frames, float(spec.predicts_semantic)


def _acoustic_part(
  spec: AutoregressiveSpec, codes: np.ndarray, first_quantizer: int, weight: float
) -> tuple[np.ndarray, np.ndarray, float]:
  frames = np.repeat(1 + np.arange(len(codes)), codes.shape[-1])
  return spec.layout.flatten_codes(codes, first_quantizer), frames, weight


def collapsed_rate(semantic: Int[np.ndarray, "steps"], semantic_rate: float) -> float:
  """Tokens per second that are left when the repeats of `semantic` are collapsed."""
  if len(semantic) == 0:
    return math.nan
  return len(collapse_repeats(semantic)) * semantic_rate / len(semantic)
