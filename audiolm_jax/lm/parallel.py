"""The parallel stage: fills in masked codes of all levels, given semantic tokens.

semantic  z1    z1    z2    z2    z3    z3        one token per frame, repeats kept
level 1   y     y     y     .     y     .         y: known code; the first frames are a prompt
level 2   y     y     .     .     .     .         .: masked code
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

# The value of a masked code, and the semantic token of a frame without semantic token.
UNKNOWN = -1


class Heads(enum.StrEnum):
  """The output layers: GEOMETRY uses the codebooks of the codec, PLAIN only linear layers."""

  GEOMETRY = "geometry"
  PLAIN = "plain"


class LossTargets(enum.StrEnum):
  """The masked codes that contribute to the loss in examples with one partly masked level.

  HIDDEN selects all masked codes, LEVEL selects the masked codes of the partly masked level.
  """

  HIDDEN = "hidden"
  LEVEL = "level"


@dataclasses.dataclass(frozen=True)
class MaskingConfig:
  """Settings of masking in training.

  In each example, a code is masked with probability cos(u pi / 2), with u uniform in (0, 1).

  Attributes:
    one_level_share: share of examples in which one random level is partly masked and all finer
      levels are fully masked. In the other examples, the codes of all levels are masked
      independently.
    level_ratio: probability that a level is the partly masked level, divided by this probability
      for the next coarser level. Below 1, coarser levels are selected more often. In sampling, too,
      the coarsest levels have most of the passes.
    targets: see `LossTargets`.
    prompt_share: share of examples that begin with a prompt, which is not masked. Pairs always have
      a prompt; see `ParallelSpec.pair_share`.
    longest_prompt: maximum length of a prompt, as a share of the length of the example.
    semantic_dropout: share of examples without semantic tokens; needed for guidance in sampling.

  Source:
    SoundStorm (arXiv 2305.09636), section 3.2; OmniVoice (arXiv 2604.00688) for independent
    masking.
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
  """Default settings of sampling.

  Attributes:
    passes: number of passes of each level, coarse to fine; the remaining levels have 1 pass. A
      level with 0 passes is drawn from the model output of the previous pass.
    temperatures: factor of the temperature at each level, coarse to fine; the last factor applies
      to all remaining levels. With (1, 0), the most likely codes are chosen at all levels after the
      first.
    guidance: factor of the difference between the logits with and without semantic tokens; 1 for no
      guidance.
    guided_levels: number of coarsest levels with guidance, which doubles the time of a pass; None
      for all levels.
    choice_noise: scale of the Gumbel noise that is added to the confidences of drawn codes; the
      noise decreases linearly and is 0 in the last pass of a level.
    overlap_seconds: seconds of existing audio that a window contains; None for the value of
      `CascadeOptions.overlap_seconds`. A shorter overlap takes less time per second of audio.
    voice_seconds: length of the first part of the prompt, in seconds. This part is put before each
      window that does not contain it, so that the voice does not drift. The model should be trained
      on pairs (see `ParallelSpec.pair_share`), because they also join audio that is not adjacent.

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
    kernel_size: kernel size of the depthwise convolution of each layer in frames; odd.
    heads: see `Heads`.
    latent_dim: dimension of the codebook vectors of the codec.
    level_weights: weight of each level in the loss, coarse to fine; the remaining levels have
      weight 1.
    point_weight: weight of the squared error of the latents that GEOMETRY heads predict.
    masking: see `MaskingConfig`.
    filling: see `FillingConfig`.
  """

  transformer: TransformerConfig = TransformerConfig(num_layers=26, positions=Positions.ROTARY)
  kernel_size: int = 5
  heads: Heads | str = Heads.GEOMETRY
  latent_dim: int = 64
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

  def shape(self) -> "ParallelConfig":
    """Returns the configuration with fixed settings of the computation, training and sampling.

    Models whose shapes are equal can use the same inference parameters.
    """
    return ParallelConfig(
      transformer=self.transformer.shape(),
      kernel_size=self.kernel_size,
      heads=self.heads,
      latent_dim=self.latent_dim,
    )


@dataclasses.dataclass(frozen=True)
class ParallelSpec(StageSpec):
  """A stage that predicts all levels of the codes, given the semantic tokens of the same time.

  Attributes:
    num_quantizers: number of levels of the codes.
    crop_seconds: duration of a training example and of the longest window in sampling.
    semantic_rate: semantic tokens per second, with repeats.
    frame_rate: acoustic frames per second.
    num_clusters: size of the semantic vocabulary.
    codebook_size: codes per quantizer.
    pair_share: share of the training examples that are pairs: one window of a recording is the
      prompt of another window. In resynthesis, a recording of the voice is the prompt.

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
    """Duration of a training example in seconds."""
    return self.crop_seconds

  @property
  def crop_frames(self) -> int:
    """Number of acoustic frames in one crop."""
    return self.writes.steps(self.crop_seconds)

  def numbers_of(self, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """Returns the vocabularies and rates of tokens, and the number of levels to predict."""
    found = vocabularies_and_rates(streams)
    if CODES in streams:
      found["num_quantizers"] = min(self.num_quantizers, streams[CODES].levels)
    return found

  def features(self) -> dict[str, Feature]:
    """Returns the features, which have values for each frame.

    `weights` is 0 on padding. `is_prompt` is 1 on frames of the prompt of a pair.
    """
    return {
      "semantic": Feature((self.crop_frames,)),
      "codes": Feature((self.crop_frames, self.num_quantizers)),
      "weights": Feature((self.crop_frames,), np.float32),
      "is_prompt": Feature((self.crop_frames,)),
    }

  def example(self, record: Record) -> Example:
    """Returns the arrays of `features` for one crop, padded at the end."""
    return self._example(record, 0)

  def example_of_pair(self, prompt: Record, target: Record) -> Example:
    """Returns the arrays of `features` for a prompt, followed by a window of the same recording."""
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
    # The last frame of a clip can begin after the last whole semantic token of the clip.
    return np.asarray(semantic, np.int32)[np.minimum(steps, len(semantic) - 1)]

  @classmethod
  def config_class(cls) -> type[ParallelConfig]:
    """Returns the configuration class of the model."""
    return ParallelConfig

  def check_config(self, config: ParallelConfig) -> None:
    """Raises a `ConfigError` if weights, passes or temperatures are given for too many levels."""
    for name, values in (
      ("level_weights", config.level_weights),
      ("passes", config.filling.passes),
      ("temperatures", config.filling.temperatures),
    ):
      if len(values) > self.num_quantizers:
        raise ConfigError(f"{name} has {len(values)} numbers for {self.num_quantizers} levels")

  def shape_of(self, config: ParallelConfig) -> ParallelConfig:
    """Returns the shape of the model, see `ParallelConfig.shape`."""
    return config.shape()

  def sampling_settings(self, config: ParallelConfig) -> FillingConfig:
    """Returns the default settings of sampling."""
    return config.filling

  def with_sampling_settings(
    self, config: ParallelConfig, settings: StageSamplingSettings
  ) -> ParallelConfig:
    """Returns the configuration with its sampling settings replaced by `settings`.

    Raises:
      ConfigError: the settings have values for more levels than the codes have.
    """
    changed = dataclasses.replace(config, filling=settings)
    self.check_config(changed)
    return changed

  def accepts_params_of(self, other: StageSpec) -> bool:
    """Returns whether this stage can use the parameters of the stage `other`.

    `crop_seconds` and `pair_share` may differ.
    """
    free = {"crop_seconds": self.crop_seconds, "pair_share": self.pair_share}
    return isinstance(other, ParallelSpec) and dataclasses.replace(other, **free) == self

  def uses_codebooks(self, config: ParallelConfig) -> bool:
    """Returns whether the output layers use the codebooks of the codec."""
    return config.heads is Heads.GEOMETRY

  def codebooks(self, config: ParallelConfig, codebooks: object) -> np.ndarray:
    """Returns the codebooks of the stage's levels as float32; see the base class."""
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
    """Returns the loss and the metrics of `parallel_loss.parallel_loss`."""
    from audiolm_jax.lm.parallel_loss import parallel_loss

    return parallel_loss(self, config, params, batch, key=key, z_loss=z_loss)

  def inference_params(self, params: Params) -> Params:
    """Returns the parameters with unstacked layers."""
    from audiolm_jax.lm.transformer import unstack_layers

    return unstack_layers(params)

  def training_params(self, config: ParallelConfig, params: Params) -> Params:
    """Returns the parameters with stacked layers if `scan_layers` of the transformer is True."""
    from audiolm_jax.lm.transformer import stack_layers

    return stack_layers(params) if config.transformer.scan_layers else params

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns "tokens" (number of codes) and "audio_seconds" of a batch, without padding."""
    frames = float(np.count_nonzero(batch["weights"]))
    return {"tokens": frames * self.num_quantizers, "audio_seconds": frames / self.frame_rate}

  def flops_per_step(self, config: ParallelConfig, batch: ShapedBatch) -> float:
    """Returns the FLOPs of one update; the backward pass counts as two forward passes."""
    rows, frames = batch["weights"].shape
    return 3 * rows * self.forward_flops(config, frames, self.num_quantizers)

  def forward_flops(self, config: ParallelConfig, frames: int, levels: int) -> float:
    """Returns the FLOPs of one forward pass over one row, with output layers of `levels` levels."""
    c, z = config.transformer, config.latent_dim
    # `TransformerConfig.forward_flops` counts only the keys up to each query, not the later keys.
    later_keys = frames * (frames - 1) / 2
    body = c.forward_flops(frames) + 4.0 * c.num_layers * later_keys * c.num_heads * c.head_size
    convolution = 2.0 * c.num_layers * frames * config.kernel_size * c.dim
    heads = float(levels * c.dim * self.codebook_size)
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
    **stated: values of fields by name; see `configured`.
  """
  return configured(ParallelSpec("parallel"), streams, stated)
