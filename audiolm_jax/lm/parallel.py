"""The parallel stage: fills in masked codes of all levels, given semantic tokens.

semantic  z1    z1    z2    z2    z3    z3        one per frame, repeats kept
level 1   y     y     y     .     y     .         y: known; the first frames are a prompt
level 2   y     y     .     .     .     .         .: masked
          └─prompt──┘
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.modules import Batch, Params, RandomKey, ShapedBatch
from audiolm_jax.core.ranges import DepthOrNone
from audiolm_jax.core.streams import CODES, SEMANTIC, Record, Stream
from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.stage import (
  Example,
  Feature,
  Scalar,
  StageSamplingSettings,
  StageSpec,
  configured,
  vocabularies_and_rates,
)

# A masked code, and the semantic token of a frame without one.
UNKNOWN = -1


class Heads(enum.StrEnum):
  """The output layers of the levels: with the codec's vectors, or a linear layer per level."""

  GEOMETRY = "geometry"
  PLAIN = "plain"


class LossTargets(enum.StrEnum):
  """The masked codes with a loss if one level is partly masked: all, or those of this level."""

  HIDDEN = "hidden"
  LEVEL = "level"


@dataclasses.dataclass(frozen=True)
class MaskingConfig:
  """Settings of masking in training.

  The share of masked entries is cos(u pi / 2), with u uniform in (0, 1).

  Attributes:
    one_level_share: share of examples in which one random level is partly masked and all finer
      levels are fully masked; in the other examples, entries are masked independently.
    level_ratio: ratio of the probabilities that a level and the next coarser level are the random
      level. Below 1, coarser levels are chosen more often. This is like sampling, which knows no
      finer levels while it fills a level, and spends most of its passes on the coarsest levels.
    targets: see `LossTargets`.
    prompt_share: share of examples that begin with a prompt, which is not masked.
    longest_prompt: length of the longest prompt, as a share of the example.
    semantic_dropout: share of examples without semantic tokens, for guidance.

  Source:
    SoundStorm (arXiv 2305.09636), section 3.2; OmniVoice (arXiv 2604.00688) for independent
    entries.
  """

  one_level_share: float = 0.5
  level_ratio: float = 1.0
  targets: LossTargets | str = LossTargets.HIDDEN
  prompt_share: float = 0.8
  longest_prompt: float = 0.5
  semantic_dropout: float = 0.1

  def __post_init__(self):
    configs.set_members(self, targets=LossTargets)
    for name in ("one_level_share", "prompt_share", "longest_prompt", "semantic_dropout"):
      if not 0 <= getattr(self, name) <= 1:
        raise ConfigError(f"{name} {getattr(self, name)} is a share; set it between 0 and 1")
    if not 0 < self.level_ratio < math.inf:
      raise ConfigError(f"level_ratio {self.level_ratio} must be above 0")

  def level_shares(self, levels: int) -> Float[np.ndarray, "levels"]:
    """Returns for each level the probability that it is the partly masked level of an example."""
    ratios = np.power(self.level_ratio, np.arange(levels), dtype=np.float64)
    return ratios / ratios.sum()


@dataclasses.dataclass(frozen=True)
class FillingConfig:
  """The defaults of sampling.

  Attributes:
    passes: number of passes of each level; levels without a number have 1. A level with 0 passes
      is drawn from the output of the pass before it.
    temperatures: factor of the temperature at each level; levels without a number have the last
      one. With (1, 0) the finer levels are not drawn but the most likely codes.
    guidance: factor of the difference between the logits with and without semantic tokens; 1 for no
      guidance.
    guided_levels: number of coarsest levels whose passes have guidance, which doubles their time;
      None for all.
    choice_noise: scale of the Gumbel noise that is added to the confidences of the first pass of a
      level; it decreases to 0 in the last one.
    overlap_seconds: seconds of existing audio that a window contains; None for the overlap of the
      call. A shorter overlap takes less time per second of audio.
    voice_seconds: seconds from the beginning of the prompt that are put before each window that
      does not contain them, so that the voice does not drift. The model should be trained on pairs
      (`pair_share`), whose prompts are not adjacent to the audio after them.

  Source: MaskGIT (arXiv 2202.04200), section 3.2; SoundStorm (arXiv 2305.09636), section 3.3.
  """

  passes: tuple[int, ...] = (16,)
  temperatures: tuple[float, ...] = (1.0,)
  guidance: float = 1.0
  guided_levels: DepthOrNone | None = None
  choice_noise: float = 1.0
  overlap_seconds: float | None = None
  voice_seconds: float = 0.0

  def __post_init__(self):
    object.__setattr__(self, "passes", tuple(self.passes))
    if not self.passes or self.passes[0] < 1 or min(self.passes) < 0:
      raise ConfigError(f"passes {self.passes}: the first level needs at least 1, the others 0")
    object.__setattr__(self, "temperatures", tuple(self.temperatures))
    if not self.temperatures or not all(0 <= factor < math.inf for factor in self.temperatures):
      raise ConfigError(f"temperatures {self.temperatures}: give one or more factors from 0 on")

  def temperature(self, level: int) -> float:
    """Returns the factor of the temperature at a level."""
    return self.temperatures[min(level, len(self.temperatures) - 1)]


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """Shape of a parallel stage's model, its training and the defaults of its sampling.

  Attributes:
    transformer: shape of the layers, with rotary positions. The default has 0.35 B parameters.
    kernel_size: frames that the depthwise convolution of each layer covers.
    heads: see `Heads`.
    latent_dim: dimension of the codec's vectors.
    embedded_levels: number of coarsest levels with an embedding table and a linear output layer;
      None for all. The others use the codec's vectors alone, so they need heads with its geometry
      and few parameters. A level whose coarser codes are not all known then has equal
      probabilities.
    level_weights: weight of each level in the loss; levels without a number have weight 1.
    point_weight: weight of the squared error of the predicted point.
    masking: see `MaskingConfig`.
    filling: see `FillingConfig`.
  """

  transformer: TransformerConfig = TransformerConfig(num_layers=26, positions=Positions.ROTARY)
  kernel_size: int = 5
  heads: Heads | str = Heads.GEOMETRY
  latent_dim: int = 64
  embedded_levels: DepthOrNone | None = None
  level_weights: tuple[float, ...] = ()
  point_weight: float = 0.5
  masking: MaskingConfig = MaskingConfig()
  filling: FillingConfig = FillingConfig()

  def __post_init__(self):
    configs.set_members(self, heads=Heads)
    object.__setattr__(self, "level_weights", tuple(self.level_weights))
    if self.transformer.positions is not Positions.ROTARY or self.transformer.num_frame_embeddings:
      raise ConfigError("a parallel stage needs rotary positions and no frame embeddings")
    if self.kernel_size < 1 or self.kernel_size % 2 == 0:
      raise ConfigError(f"kernel_size {self.kernel_size} must be odd")
    if self.embedded_levels is not None:
      if self.heads is not Heads.GEOMETRY:
        raise ConfigError("embedded_levels needs heads with the codec's geometry")
      if self.embedded_levels < 1:
        raise ConfigError(f"embedded_levels {self.embedded_levels} must be at least 1")

  def num_embedded(self, levels: int) -> int:
    """Returns how many of `levels` levels have an embedding table and a linear output layer."""
    return levels if self.embedded_levels is None else min(self.embedded_levels, levels)

  def shape(self) -> "ParallelConfig":
    """Returns the configuration without settings of the computation, of training and sampling."""
    return ParallelConfig(
      transformer=self.transformer.shape(),
      kernel_size=self.kernel_size,
      heads=self.heads,
      latent_dim=self.latent_dim,
      embedded_levels=self.embedded_levels,
    )


@dataclasses.dataclass(frozen=True)
class ParallelSpec(StageSpec):
  """A stage that predicts all levels of the codes, given the semantic tokens of the same time.

  Attributes:
    num_quantizers: levels of the codes.
    crop_seconds: length of a training example, and the longest window in sampling.
    semantic_rate: semantic tokens per second, with repeats.
    frame_rate: acoustic frames per second.
    num_clusters: semantic vocabulary.
    codebook_size: codes per quantizer.
    pair_share: share of the training examples that are pairs: a window of the recording is the
      prompt of another window, like the recording of the voice in resynthesis.

  Source: SoundStorm (arXiv 2305.09636).
  """

  num_quantizers: int = 12
  crop_seconds: float = 30.0
  semantic_rate: float = 25.0
  frame_rate: float = 50.0
  num_clusters: int = 1024
  codebook_size: int = 1024
  pair_share: float = 0.0
  kind: str = dataclasses.field(default="parallel", kw_only=True)

  weight_feature = "weights"
  samples_windows = True

  def __post_init__(self):
    if not 0 <= self.pair_share <= 1:
      raise ConfigError(f"pair_share {self.pair_share} is a share; set it between 0 and 1")

  @property
  def reads(self) -> tuple[Stream, ...]:
    """Semantic tokens with their repeats."""
    return (Stream(SEMANTIC, self.num_clusters, self.semantic_rate),)

  @property
  def writes(self) -> Stream:
    """The codes at all levels."""
    return Stream(CODES, self.codebook_size, self.frame_rate, self.num_quantizers)

  @property
  def crop_length(self) -> float:
    """Seconds of a training example."""
    return self.crop_seconds

  @property
  def crop_frames(self) -> int:
    """Acoustic frames in one crop."""
    return self.writes.steps(self.crop_seconds)

  def numbers_of(self, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """Returns the vocabularies, rates and levels of tokens."""
    found = vocabularies_and_rates(streams)
    if CODES in streams:
      found["num_quantizers"] = min(self.num_quantizers, streams[CODES].levels)
    return found

  def features(self) -> dict[str, Feature]:
    """Returns the features by frame.

    These are semantic tokens, codes, weights, which are 0 on padding, and whether the frame belongs
    to the first window of a pair.
    """
    return {
      "semantic": Feature((self.crop_frames,)),
      "codes": Feature((self.crop_frames, self.num_quantizers)),
      "weights": Feature((self.crop_frames,), np.float32),
      "is_prompt": Feature((self.crop_frames,)),
    }

  def example(self, record: Record) -> Example:
    """Returns one crop, padded at its end."""
    return self._example(record, 0)

  def example_of_pair(self, prompt: Record, target: Record) -> Example:
    """Returns one crop of a prompt and another window of the same recording after it."""
    joined = {key: np.concatenate([prompt[key], target[key]]) for key in self.streams}
    return self._example(joined, len(prompt[CODES]))

  def _example(self, record: Record, prompt: int) -> Example:
    (stream,) = self.reads
    semantic, codes = (s.of(record, f"the {self.name} stage") for s in (stream, self.writes))
    if len(codes) > self.crop_frames:
      raise DataError(
        f"a {self.name} example of {len(codes)} frames exceeds the stage's {self.crop_frames}; "
        f"crop it to {self.crop_seconds:g} s"
      )
    space = (0, self.crop_frames - len(codes))
    return {
      "semantic": np.pad(self.by_frame(semantic, len(codes)), space),
      "codes": np.pad(codes, (space, (0, 0))).astype(np.int32),
      "weights": np.pad(np.ones(len(codes), np.float32), space),
      "is_prompt": (np.arange(self.crop_frames) < prompt).astype(np.int32),
    }

  def by_frame(
    self, semantic: Integer[np.ndarray, "steps"], frames: int, start: int = 0
  ) -> Integer[np.ndarray, "frames"]:
    """Returns for each frame the semantic token at the time of the frame.

    Args:
      semantic: tokens that cover the frames; the first token covers frame `start`.
      frames: number of frames.
      start: the first frame, counted from the beginning of the clip.
    """
    ratio = self.semantic_rate / self.frame_rate
    steps = np.floor((start + np.arange(frames)) * ratio + 1e-6).astype(np.int64)
    steps -= int(np.floor(start * ratio + 1e-6))
    # The last frame of a clip can begin after its last whole token.
    return np.asarray(semantic, np.int32)[np.minimum(steps, len(semantic) - 1)]

  @classmethod
  def config_class(cls) -> type[ParallelConfig]:
    """Returns the dataclass of the model."""
    return ParallelConfig

  def check_config(self, config: ParallelConfig) -> None:
    """Raises a `ConfigError` if a field has values for more levels than the codes have."""
    for name, values in (
      ("level_weights", config.level_weights),
      ("passes", config.filling.passes),
      ("temperatures", config.filling.temperatures),
    ):
      if len(values) > self.num_quantizers:
        raise ConfigError(f"{name} has {len(values)} numbers for {self.num_quantizers} levels")

  def shape_of(self, config: ParallelConfig) -> ParallelConfig:
    """Returns the shape of the model."""
    return config.shape()

  def sampling_settings(self, config: ParallelConfig) -> FillingConfig:
    """Returns the settings of the passes."""
    return config.filling

  def with_sampling_settings(
    self, config: ParallelConfig, settings: StageSamplingSettings
  ) -> ParallelConfig:
    """Returns the configuration with other settings of the passes; see the base class."""
    changed = dataclasses.replace(config, filling=settings)
    self.check_config(changed)
    return changed

  def accepts_params_of(self, other: StageSpec) -> bool:
    """Returns whether the parameters of the other stage fit this one.

    Crop length and pair settings may differ.
    """
    free = {"crop_seconds": self.crop_seconds, "pair_share": self.pair_share}
    return isinstance(other, ParallelSpec) and dataclasses.replace(other, **free) == self

  def uses_codebooks(self, config: ParallelConfig) -> bool:
    """Returns whether the heads use the codec's vectors."""
    return config.heads is Heads.GEOMETRY

  def codebooks(self, config: ParallelConfig, codebooks: object) -> np.ndarray:
    """Returns the codebooks of the stage's levels."""
    found = np.asarray(codebooks, np.float32)[: self.num_quantizers]
    wanted = (self.num_quantizers, self.codebook_size, config.latent_dim)
    if found.shape != wanted:
      raise ConfigError(
        f"codebooks of shape {found.shape}, and the {self.name} stage needs {wanted} (levels, "
        "codes, latent_dim)"
      )
    return found

  def init(self, config: ParallelConfig, key: RandomKey, batch: Batch) -> Params:
    """Returns new parameters; the codebooks are NaN until they are replaced."""
    import jax.numpy as jnp

    rows, levels = len(batch["codes"]), self.num_quantizers
    codes, row = jnp.zeros((rows, 8, levels), jnp.int32), jnp.zeros((rows, 8), jnp.int32)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    return self.model(config).init(key, codes, row, jnp.ones((rows, 8), bool))["params"]  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types

  def loss(
    self,
    config: ParallelConfig,
    params: Params,
    batch: Batch,
    *,
    key: RandomKey | None = None,
    z_loss: float = 0.0,
  ) -> tuple[Scalar, dict[str, Scalar]]:
    """Returns `parallel_loss.parallel_loss`."""
    from audiolm_jax.lm.parallel_loss import parallel_loss

    return parallel_loss(self, config, params, batch, key=key, z_loss=z_loss)

  def inference_params(self, params: Params) -> Params:
    """Returns the parameters with unstacked layers."""
    from audiolm_jax.lm.transformer import unstack_layers

    return unstack_layers(params)

  def training_params(self, config: ParallelConfig, params: Params) -> Params:
    """Returns the parameters with stacked layers if the configuration scans over them."""
    from audiolm_jax.lm.transformer import stack_layers

    return stack_layers(params) if config.transformer.scan_layers else params

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the numbers of codes and of seconds of audio of a batch, without padding."""
    frames = float(np.count_nonzero(batch["weights"]))
    return {"tokens": frames * self.num_quantizers, "audio_seconds": frames / self.frame_rate}

  def flops_per_step(self, config: ParallelConfig, batch: ShapedBatch) -> float:
    """Returns the operations of one update; the backward pass takes twice the forward pass."""
    rows, frames = batch["weights"].shape
    return 3 * rows * self.forward_flops(config, frames, self.num_quantizers)

  def forward_flops(self, config: ParallelConfig, frames: int, levels: int) -> float:
    """Returns the operations of one pass over one row with the heads of `levels` levels."""
    c, z = config.transformer, config.latent_dim
    # `TransformerConfig.forward_flops` counts the keys up to each query.
    later_keys = frames * (frames - 1) / 2
    body = c.forward_flops(frames) + 4.0 * c.num_layers * later_keys * c.num_heads * c.head_size
    convolution = 2.0 * c.num_layers * frames * config.kernel_size * c.dim
    heads = float(config.num_embedded(levels) * c.dim * self.codebook_size)
    if config.heads is Heads.GEOMETRY:
      heads += levels * (c.dim * z + z * self.codebook_size)
      body += 2.0 * frames * c.dim * z
    return body + convolution + 2.0 * frames * heads

  def model(self, config: ParallelConfig, deterministic: bool = True) -> Any:
    """Returns the model for the levels and the vocabularies of the stage."""
    from audiolm_jax.lm.parallel_model import ParallelModel

    return ParallelModel(
      config, self.num_quantizers, self.codebook_size, self.num_clusters, deterministic
    )


def parallel_stage(
  *, streams: Mapping[str, Stream] | None = None, **stated: object
) -> ParallelSpec:
  """Returns the stage that replaces the paper's coarse and fine stages.

  Args:
    streams: streams of the tokens by key, such as those of a token store; see `configured`. The
      stage predicts the first 12 levels of the codes, or all levels if there are fewer.
    **stated: values of other fields.
  """
  return configured(ParallelSpec("parallel"), streams, stated)
