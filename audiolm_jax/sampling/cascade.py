"""The three stages in a row: prompt tokens in, all tokens of the clip out.

Audio longer than the coarse stage's crop is made in windows, each of which sees the end of what is
there already:

    |---- window 1 ----|
                 |ov.|---- new ----|      ov.: overlap, its codes and semantic tokens are given

Where repeats of semantic tokens are collapsed, their place in time is lost, so a window's overlap
is decoded and tokenized again ("retokenized"). The fine stage sees independent chunks, which are
sampled as one batch.
"""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from audiolm_jax.errors import ConfigError, DataError
from audiolm_jax.lm.stages import STAGE_NAMES, Source, Stage, StageSpec, stage_sequence
from audiolm_jax.sampling.decoder import Prompt, StageSampler
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.semantic_source import (
  Codes,
  GivenSource,
  NoSource,
  Retokenize,
  SampledSource,
  Semantic,
  SemanticSource,
)
from audiolm_jax.sampling.windows import plan_windows

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class CascadeOptions:
  """How each stage draws its tokens; the temperatures are the paper's.

  Attributes:
    overlap_seconds: what a window after the first sees of the one before; three quarters of the
      coarse crop at most.
  Source: AudioLM, section IV-B.
  """

  semantic: SamplingOptions = SamplingOptions(temperature=0.6)
  coarse: SamplingOptions = SamplingOptions(temperature=0.8)
  fine: SamplingOptions = SamplingOptions(temperature=0.6)
  overlap_seconds: float = 3.0


class CascadeResult(NamedTuple):
  """Sampled tokens; rows are the samples of the first prompt, then those of the second, ...

  Attributes:
    semantic: per row, the prompt's semantic tokens and the sampled ones, collapsed if the stages
      collapse; empty without a semantic stage.
    codes: all levels that the last stage knows; the prompt's codes are a prefix.
    timings: seconds by stage, and "retokenize" where it was needed.
  """

  semantic: tuple[Semantic, ...]
  codes: Codes
  timings: dict[str, float]


class Cascade:
  """Stages made ready to sample together.

  Args:
    stages: by name: "coarse"; "semantic" if it is conditioned on semantic tokens and these are to
      be sampled; "fine" if there are levels beyond the coarse ones.
    semantic_rate: collapsed semantic tokens per second of the training data; needed if the
      stages collapse repeats.
    retokenize: codes [rows, frames, k] to semantic tokens [rows, steps]; needed for clips longer
      than the coarse crop if the stages collapse repeats. See `retokenizer`.
  Raises:
    ConfigError: stages that do not fit together.
  """

  def __init__(
    self,
    stages: Mapping[str, Stage],
    *,
    semantic_rate: float | None = None,
    retokenize: Retokenize | None = None,
  ):
    self._specs = {name: stage.spec for name, stage in stages.items()}
    _check_stages(self._specs)
    if self._collapses and "semantic" in stages and not semantic_rate:
      raise ConfigError(
        "these stages collapse repeated semantic tokens, so semantic_rate (collapsed tokens per "
        "second of the training data) must be given"
      )
    self._samplers = {name: StageSampler(stage) for name, stage in stages.items()}
    self._semantic_rate = semantic_rate
    self._retokenize = retokenize

  @property
  def num_quantizers(self) -> int:
    """Levels of the codes that come out."""
    return self._specs["fine" if "fine" in self._specs else "coarse"].num_quantizers

  def continuation(
    self,
    semantic: Sequence[Semantic] | Int[np.ndarray, "prompts steps"],
    codes: Int[np.ndarray, "prompts frames quantizers"],
    *,
    num_frames: int,
    seed: int = 0,
    num_samples: int = 1,
    options: CascadeOptions | None = None,
    progress: Progress | None = None,
  ) -> CascadeResult:
    """Continues prompts of equal length.

    Args:
      semantic: the prompts' semantic tokens, repeats kept.
      codes: the prompts' codes.
      num_frames: length of the result, prompt included.
      seed: the same seed gives the same result; sample i of a prompt does not depend on other
        prompts, nor on how many samples there are.
      progress: called with a stage's name, and its tokens per row drawn and to draw.
    Raises:
      DataError: prompts that do not fit the stages, or nothing to add to them.
    """
    codes = self._checked_codes(codes)
    if num_frames <= codes.shape[1]:
      raise DataError(
        f"the prompt has {codes.shape[1]} frames and the result shall have {num_frames}; "
        "shorten the prompt or ask for more"
      )
    semantic = self._checked_semantic(semantic, len(codes), codes.shape[1])
    run = _Run(self, codes, num_frames, seed, num_samples, options, progress)
    return run.sample(semantic, given=False)

  def unconditional(
    self,
    *,
    num_frames: int,
    seed: int = 0,
    num_samples: int = 1,
    options: CascadeOptions | None = None,
    progress: Progress | None = None,
  ) -> CascadeResult:
    """Samples clips from nothing; arguments as in `continuation`."""
    codes = np.zeros((1, 0, self.num_quantizers), np.int32)
    semantic = self._checked_semantic(np.zeros((1, 0), np.int32), 1, 0)
    run = _Run(self, codes, num_frames, seed, num_samples, options, progress)
    return run.sample(semantic, given=False)

  def resynthesis(
    self,
    semantic: Sequence[Semantic] | Int[np.ndarray, "clips steps"],
    *,
    num_frames: int,
    seed: int = 0,
    num_samples: int = 1,
    options: CascadeOptions | None = None,
    progress: Progress | None = None,
  ) -> CascadeResult:
    """Samples codes for the given semantic tokens (repeats kept): same content, another voice."""
    if self._specs["coarse"].source is not Source.SEMANTIC:
      raise DataError(
        "resynthesis needs a coarse stage that is conditioned on semantic tokens; this one is not"
      )
    codes = np.zeros((len(semantic), 0, self.num_quantizers), np.int32)
    semantic = self._checked_semantic(semantic, len(semantic), num_frames)
    run = _Run(self, codes, num_frames, seed, num_samples, options, progress)
    return run.sample(semantic, given=True)

  @property
  def _collapses(self) -> bool:
    return any(s.collapse_repeats for s in self._specs.values() if s.uses_semantic)

  def _checked_codes(self, codes) -> Codes:
    codes = np.asarray(codes, np.int32)
    if codes.ndim != 3 or codes.shape[2] < self.num_quantizers:
      raise DataError(
        f"prompt codes have shape {codes.shape}; these stages need [prompts, frames, quantizers] "
        f"with at least {self.num_quantizers} quantizers"
      )
    return codes[:, :, : self.num_quantizers]

  def _checked_semantic(self, semantic, rows: int, frames: int) -> list[Semantic]:
    """The semantic tokens that cover `frames`."""
    coarse = self._specs["coarse"]
    if coarse.source is not Source.SEMANTIC:
      return [np.zeros(0, np.int32)] * rows
    steps = math.ceil(frames * coarse.semantic_rate / coarse.frame_rate - 1e-6)
    semantic = [np.asarray(s, np.int32) for s in semantic]
    if len(semantic) != rows or any(len(s) < steps for s in semantic):
      lengths = ", ".join(str(len(s)) for s in semantic)
      raise DataError(
        f"semantic tokens of {len(semantic)} clips ({lengths} steps) were given; {rows} clips of "
        f"{frames} frames need {steps} steps each"
      )
    return [s[:steps] for s in semantic]


def retokenizer(codec: Any, tokenizer: Any) -> Retokenize:
  """Codes to semantic tokens, by way of the waveform.

  Args:
    codec: has `spec.sample_rate` and `decode`.
    tokenizer: has `spec.sample_rate` and `tokenize`.
  """

  def retokenize(codes: Codes) -> Int[np.ndarray, "rows steps"]:
    waveform = codec.decode(codes)
    if codec.spec.sample_rate != tokenizer.spec.sample_rate:
      # Only here: most bundles have one rate, and the resampler need not be imported for them.
      from audiolm_jax import audio

      rates = codec.spec.sample_rate, tokenizer.spec.sample_rate
      waveform = audio.resample(np.asarray(waveform), *rates)
    return np.asarray(tokenizer.tokenize(waveform))

  return retokenize


class _Run:
  """One call of the cascade: what is known so far, per row."""

  def __init__(self, cascade: Cascade, codes, num_frames, seed, num_samples, options, progress):
    self.specs = cascade._specs
    self.samplers = cascade._samplers
    self.retokenize = cascade._retokenize
    self.semantic_rate = cascade._semantic_rate
    self.options = options or CascadeOptions()
    self.progress = progress
    self.num_frames = num_frames
    self.num_samples = num_samples
    self.prompt = np.repeat(codes, num_samples, axis=0)
    self.timings: dict[str, float] = collections.defaultdict(float)
    # A row's key depends on the sample's number only, so a batch of prompts gives what the
    # prompts give one by one.
    samples = np.tile(np.arange(num_samples), len(codes))
    self.keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), samples)

  def sample(self, semantic: list[Semantic], *, given: bool) -> CascadeResult:
    """Runs all stages; `given` means that no semantic tokens are to be sampled."""
    semantic = [s for s in semantic for _ in range(self.num_samples)]
    source = self._source(semantic, given)
    coarse = self._coarse(source)
    codes = self._fine(coarse) if "fine" in self.specs else coarse
    return CascadeResult(tuple(source.tokens()), codes, dict(self.timings))

  def _source(self, semantic: list[Semantic], given: bool) -> SemanticSource:
    coarse = self.specs["coarse"]
    if coarse.source is not Source.SEMANTIC:
      return NoSource(len(self.prompt))
    if given:
      return GivenSource(coarse, semantic)
    if "semantic" not in self.specs:
      raise ConfigError("no semantic stage is given; without it only resynthesis is possible")
    return SampledSource(
      self.specs["semantic"],
      coarse,
      semantic,
      self.num_frames,
      lambda prompts, count, index: self._draw("semantic", prompts, count, index),
      self.semantic_rate,
      self._timed_retokenize if self.retokenize else None,
    )

  def _timed_retokenize(self, codes: Codes) -> Int[np.ndarray, "rows steps"]:
    with self._timed("retokenize"):
      return self.retokenize(codes)

  def _draw(self, stage: str, prompts: list[Prompt], num_tokens: int, index: int, keys=None):
    """Tokens of one stage; `index` sets apart the calls for one stage."""
    keys = self.keys if keys is None else keys
    stream = STAGE_NAMES.index(stage) + len(STAGE_NAMES) * index
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, stream)
    report = None if self.progress is None else lambda d, t: self.progress(stage, d, t)
    with self._timed(stage):
      return self.samplers[stage].sample(
        prompts, num_tokens, keys, getattr(self.options, stage), progress=report
      )

  @contextlib.contextmanager
  def _timed(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    self.timings[name] += time.perf_counter() - start

  def _coarse(self, source: SemanticSource) -> Codes:
    spec = self.specs["coarse"]
    levels = spec.num_target_quantizers
    codes = self.prompt[:, :, :levels]
    windows = plan_windows(
      codes.shape[1],
      self.num_frames,
      spec.crop_frames,
      min(round(self.options.overlap_seconds * spec.frame_rate), spec.crop_frames * 3 // 4),
      align=spec.frames_per_step,
    )
    for index, window in enumerate(windows):
      prompts = []
      for row, semantic in enumerate(source.window(window, index)):
        known = stage_sequence(spec, semantic, codes[row, window.start : window.known])
        prompts.append(Prompt(known.tokens, known.frame_ids, 1 + window.known - window.start))
      count = (window.end - window.known) * levels
      ids = self._draw("coarse", prompts, count, index)
      codes = np.concatenate([codes, spec.layout.unflatten_ids(ids, levels)], axis=1)
      if window.end < self.num_frames:
        source.hear(codes)
    return codes

  def _fine(self, coarse: Codes) -> Codes:
    """Adds the fine levels, in chunks; frames of the prompt keep theirs."""
    spec = self.specs["fine"]
    levels, first, size = spec.num_target_quantizers, spec.first_target_quantizer, spec.crop_frames
    known = self.prompt.shape[1]
    starts = range(known // size * size, self.num_frames, size)
    prompts, keys = [], []
    for start in starts:
      chunk = slice(start, min(start + size, self.num_frames))
      kept = self.prompt[:, start:, first:]
      for row in range(len(coarse)):
        count = chunk.stop - start
        nothing = np.zeros((count, levels), np.int32)
        sequence = stage_sequence(spec, None, np.concatenate([coarse[row, chunk], nothing], axis=1))
        given = len(sequence.tokens) - count * levels
        forced = spec.layout.flatten_codes(kept[row, :count], first)
        prompts.append(Prompt(sequence.tokens[:given], sequence.frame_ids[:given], 1, forced))
        keys.append(jax.random.fold_in(self.keys[row], start // size))
    longest = min(size, self.num_frames - starts[0])
    ids = self._draw("fine", prompts, longest * levels, 0, jnp.stack(keys))
    drawn = spec.layout.unflatten_ids(ids, levels, first)
    drawn = drawn.reshape(len(starts), len(coarse), longest, levels)
    drawn = np.concatenate(list(drawn), axis=1)[:, : self.num_frames - starts[0]]
    fine = np.concatenate([self.prompt[:, : starts[0], first:], drawn], axis=1)
    return np.concatenate([coarse, fine], axis=2)


def _check_stages(specs: Mapping[str, StageSpec]) -> None:
  unknown = sorted(set(specs) - set(STAGE_NAMES))
  if unknown or "coarse" not in specs:
    raise ConfigError(
      f"a cascade needs a coarse stage and may have a semantic and a fine one; "
      f"given are {', '.join(sorted(specs)) or 'none'}"
    )
  coarse = specs["coarse"]
  for name, spec in specs.items():
    fields = ["frame_rate", "codebook_size"]
    if spec.uses_semantic and coarse.uses_semantic:
      fields += ["semantic_rate", "num_clusters"]
    for field in fields:
      if getattr(spec, field) != getattr(coarse, field):
        raise ConfigError(
          f"the {name} and coarse stages disagree on {field}: {getattr(spec, field)} and "
          f"{getattr(coarse, field)}"
        )
  if coarse.source is Source.COARSE or coarse.predicts_semantic:
    raise ConfigError("the coarse stage must predict acoustic codes, from semantic tokens or none")
  if "fine" in specs and specs["fine"].num_source_quantizers != coarse.num_target_quantizers:
    raise ConfigError(
      f"the fine stage reads {specs['fine'].num_source_quantizers} levels, the coarse stage makes "
      f"{coarse.num_target_quantizers}"
    )
  if "semantic" in specs:
    semantic = specs["semantic"]
    if not semantic.predicts_semantic:
      raise ConfigError("the semantic stage must predict semantic tokens")
    if coarse.uses_semantic and semantic.collapse_repeats != coarse.collapse_repeats:
      raise ConfigError("the semantic and coarse stages must both collapse repeats, or neither")
