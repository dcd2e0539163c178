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
import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.io import stored_program
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.lm.stages import STAGE_NAMES, Source, Stage, StageSpec, stage_sequence
from audiolm_jax.sampling.decoder import Prompt, StageSampler
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.semantic_source import (
  Codes,
  GivenSource,
  Ids,
  NoSource,
  Retokenize,
  SampledSource,
  Semantic,
  SemanticSource,
)
from audiolm_jax.sampling.windows import plan_windows, steps_of_frames

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


class Clip(NamedTuple):
  """What is known of a clip that shall be made.

  Attributes:
    num_frames: of the whole clip.
    semantic: semantic tokens of the prompt, repeats kept; None without a prompt.
    codes: of the prompt, at least as many levels as the last stage makes; None without a prompt.
    resynthesis: `semantic` covers the whole clip, and only the codes are to be sampled.
  """

  num_frames: int
  semantic: Semantic | None = None
  codes: Codes | None = None
  resynthesis: bool = False


class CascadeResult(NamedTuple):
  """Sampled tokens; rows are the samples of the first prompt, then those of the second, ...

  Attributes:
    semantic: per row, the prompt's semantic tokens and the sampled ones, collapsed if the stages
      collapse; empty without a semantic stage.
    codes: per row, all levels that the last stage knows; the prompt's codes are a prefix.
    timings: seconds by stage, and "retokenize" where it was needed.
  """

  semantic: tuple[Semantic, ...]
  codes: tuple[Codes, ...]
  timings: dict[str, float]


class Cascade:
  """Stages made ready to sample together.

  Args:
    stages: by name: "coarse"; "semantic" if it is conditioned on semantic tokens and these are to
      be sampled; "fine" if there are levels beyond the coarse ones.
    semantic_rate: collapsed semantic tokens per second of the training data; needed if the
      stages collapse repeats.
    retokenize: codes [frames, k] to semantic tokens [steps]; needed for clips longer than the
      coarse crop if the stages collapse repeats. See `retokenizer`.
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

  def sample(
    self,
    clips: Sequence[Clip],
    *,
    seed: int = 0,
    num_samples: int = 1,
    options: CascadeOptions | None = None,
    progress: Progress | None = None,
  ) -> CascadeResult:
    """Makes `num_samples` of each clip, all side by side.

    Args:
      clips: of one length or of several; all or none for resynthesis.
      seed: the same seed gives the same result; sample i of a clip does not depend on other
        clips, nor on how many samples there are.
      progress: called with a stage's name, and its tokens per row drawn and to draw.
    Raises:
      DataError: prompts that do not fit the stages, or nothing to add to them.
      ConfigError: semantic tokens are to be sampled and there is no semantic stage.
    """
    return _Run(self, clips, seed, num_samples, options, progress).result()

  def stream(
    self,
    clip: Clip,
    *,
    seed: int = 0,
    options: CascadeOptions | None = None,
    progress: Progress | None = None,
  ) -> Generator[Codes, None, CascadeResult]:
    """The codes that `sample` makes of one clip, from its first frame on, as they are drawn.

    A chunk of the fine stage begins when its coarse levels are there.

    Args:
      progress: as of `sample`; of the fine stage, the tokens of one chunk.
    Returns:
      A generator of codes, whose return value is what `sample` returns.
    """
    return _Run(self, [clip], seed, 1, options, progress).stream()

  def rehearsal(self) -> "Cascade | None":
    """A cascade that draws at random, and begins to load or compile what this one will need.

    Its `sample` and `stream` take no time, while the programs are made ready in the background.

    Returns:
      None where programs are not stored, or the stages collapse repeats: only their draws decide
      how many tokens there are.
    """
    if self._collapses or not stored_program.is_on():
      return None
    rehearsal = copy.copy(self)
    rehearsal._samplers = {name: _Rehearsed(s) for name, s in self._samplers.items()}
    return rehearsal

  @property
  def _collapses(self) -> bool:
    return any(s.collapse_repeats for s in self._specs.values() if s.uses_semantic)

  def _checked(self, clip: Clip) -> tuple[Semantic, Codes]:
    """The semantic tokens that cover the prompt, or the whole clip, and the prompt's codes."""
    levels = self.num_quantizers
    codes = np.zeros((0, levels), np.int32) if clip.codes is None else np.asarray(clip.codes)
    if codes.ndim != 2 or codes.shape[1] < levels:
      raise DataError(
        f"prompt codes have shape {codes.shape}; these stages need [frames, quantizers] with at "
        f"least {levels} quantizers"
      )
    if clip.num_frames <= len(codes):
      raise DataError(
        f"the prompt has {len(codes)} frames and the result shall have {clip.num_frames}; "
        "shorten the prompt or ask for more"
      )
    codes = codes[:, :levels].astype(np.int32)
    coarse = self._specs["coarse"]
    if coarse.source is not Source.SEMANTIC:
      return np.zeros(0, np.int32), codes
    semantic = np.asarray(() if clip.semantic is None else clip.semantic, np.int32)
    covered = clip.num_frames if clip.resynthesis else len(codes)
    steps = steps_of_frames(coarse, 0, covered).stop
    if len(semantic) < steps:
      raise DataError(f"{len(semantic)} semantic tokens are too few for {covered} frames: {steps}")
    return semantic[:steps], codes


def retokenizer(codec: Any, tokenizer: Any) -> Retokenize:
  """Codes to semantic tokens, by way of the waveform.

  Args:
    codec: has `spec.sample_rate` and `decode`.
    tokenizer: has `spec.sample_rate` and `tokenize`.
  """

  def retokenize(codes: Codes) -> Semantic:
    waveform = codec.decode(codes[None])
    if codec.spec.sample_rate != tokenizer.spec.sample_rate:
      # Only here: most bundles have one rate, and the resampler need not be imported for them.
      from audiolm_jax.io import audio

      rates = codec.spec.sample_rate, tokenizer.spec.sample_rate
      waveform = audio.resample(np.asarray(waveform), *rates)
    return np.asarray(tokenizer.tokenize(waveform))[0]

  return retokenize


class _Rehearsed:
  """In the place of a sampler: prepares what that would run, and draws at random."""

  def __init__(self, sampler: StageSampler):
    self._sampler = sampler
    self._random = np.random.default_rng(0)

  def sample(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
  ) -> Int[np.ndarray, "rows num_tokens"]:
    del progress
    self._sampler.prepare(prompts, num_tokens, keys, options)
    spec = self._sampler.spec
    steps = np.arange(num_tokens)
    starts, size = spec.layout.legal_range(
      steps, spec.first_target_quantizer, spec.num_target_quantizers
    )
    return starts + self._random.integers(size, size=(len(prompts), num_tokens), dtype=np.int32)

  def stream(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
  ) -> Iterator[Int[np.ndarray, "rows num_tokens"]]:
    yield self.sample(prompts, num_tokens, keys, options)


class _Chunk(NamedTuple):
  """Frames of a row for which the fine levels are sampled in one go."""

  row: int
  start: int
  end: int


class _Run:
  """One call of the cascade: what is known so far, per row."""

  def __init__(
    self,
    cascade: Cascade,
    clips: Sequence[Clip],
    seed: int,
    num_samples: int,
    options: CascadeOptions | None,
    progress: Progress | None,
  ):
    self._specs = cascade._specs
    self._samplers = cascade._samplers
    self._options = options or CascadeOptions()
    self._progress = progress
    self._timings: dict[str, float] = collections.defaultdict(float)
    checked = [row for clip in clips for row in [cascade._checked(clip)] * num_samples]
    self._num_frames = [clip.num_frames for clip in clips for _ in range(num_samples)]
    self._prompts = [codes for _, codes in checked]
    levels = self._specs["coarse"].num_target_quantizers
    self._coarse = [codes[:, :levels] for codes in self._prompts]
    # A row's key depends on the sample's number only, so a batch of prompts gives what the
    # prompts give one by one.
    self._samples = np.tile(np.arange(num_samples), len(clips))
    self._seed = seed
    if len({clip.resynthesis for clip in clips}) > 1:
      raise DataError("clips for resynthesis and for continuation are to be sampled apart")
    semantic = [semantic for semantic, _ in checked]
    self._source = self._source_of(cascade, semantic, clips[0].resynthesis)

  def result(self) -> CascadeResult:
    """Runs all stages; the fine stage samples the chunks of all rows as one batch."""
    for _ in self._extend_coarse(in_pieces=False):
      pass
    codes = self._coarse
    if "fine" in self._specs:
      chunks = [chunk for row in range(len(codes)) for chunk in self._chunks(row)]
      codes = [prompt[: self._chunks(row)[0].start] for row, prompt in enumerate(self._prompts)]
      made = next(self._draw_fine(chunks, in_pieces=False))
      for chunk, new in zip(chunks, made, strict=True):
        codes[chunk.row] = np.concatenate([codes[chunk.row], new])
    return CascadeResult(tuple(self._source.tokens()), tuple(codes), dict(self._timings))

  def stream(self) -> Generator[Codes, None, CascadeResult]:
    """Runs all stages for the only row; see `Cascade.stream`."""
    made = []
    for codes in self._new_pieces():
      made.append(codes)
      yield codes
    codes = np.concatenate(made)
    return CascadeResult(tuple(self._source.tokens()), (codes,), dict(self._timings))

  def _new_pieces(self) -> Iterator[Codes]:
    sent = len(self._prompts[0])
    if sent:
      yield self._prompts[0]
    chunks = self._chunks(0) if "fine" in self._specs else []
    for _ in self._extend_coarse(in_pieces=True):
      if "fine" not in self._specs:
        yield self._coarse[0][sent:]
        sent = len(self._coarse[0])
      while chunks and chunks[0].end <= len(self._coarse[0]):
        chunk = chunks.pop(0)
        for (codes,) in self._draw_fine([chunk], in_pieces=True):
          if chunk.start + len(codes) > sent:
            yield codes[sent - chunk.start :]
            sent = chunk.start + len(codes)

  def _source_of(
    self, cascade: Cascade, semantic: list[Semantic], resynthesis: bool
  ) -> SemanticSource:
    coarse = self._specs["coarse"]
    if coarse.source is not Source.SEMANTIC:
      return NoSource()
    if resynthesis:
      return GivenSource(coarse, semantic)
    if "semantic" not in self._specs:
      raise ConfigError("no semantic stage is given; without it only resynthesis is possible")

    def draw(prompts: Mapping[int, Prompt], num_tokens: int, index: int) -> Mapping[int, Ids]:
      return next(self._draw("semantic", prompts, num_tokens, index, in_pieces=False))

    def retokenize(codes: Codes) -> Semantic:
      started = time.perf_counter()
      heard = cascade._retokenize(codes)
      self._timings["retokenize"] += time.perf_counter() - started
      return heard

    return SampledSource(
      self._specs["semantic"],
      coarse,
      semantic,
      self._num_frames,
      draw,
      cascade._semantic_rate,
      retokenize if cascade._retokenize else None,
    )

  def _extend_coarse(self, *, in_pieces: bool) -> Iterator[None]:
    """Makes the coarse levels, and pauses whenever there is more of them."""
    spec = self._specs["coarse"]
    levels = spec.num_target_quantizers
    overlap = round(self._options.overlap_seconds * spec.frame_rate)
    overlap = min(overlap, spec.crop_frames * 3 // 4)
    plans = [
      plan_windows(len(prompt), frames, spec.crop_frames, overlap, align=spec.frames_per_step)
      for prompt, frames in zip(self._prompts, self._num_frames, strict=True)
    ]
    for index in range(max(map(len, plans))):
      windows = {row: plan[index] for row, plan in enumerate(plans) if index < len(plan)}
      before = {row: self._coarse[row] for row in windows}
      prompts = {}
      for row, semantic in self._source.windows(windows, index).items():
        start, known, _ = windows[row]
        given = stage_sequence(spec, semantic, before[row][start:known])
        prompts[row] = Prompt(given.tokens, given.frame_ids, 1 + known - start)
      new = {row: window.end - window.known for row, window in windows.items()}
      count = levels * max(new.values())
      for drawn in self._draw("coarse", prompts, count, index, in_pieces=in_pieces):
        for row, ids in drawn.items():
          frames = min(len(ids) // levels, new[row])
          codes = spec.layout.unflatten_ids(ids[: frames * levels], levels)
          self._coarse[row] = np.concatenate([before[row], codes])
        yield
      self._source.hear({row: self._coarse[row] for row in windows if index + 1 < len(plans[row])})

  def _chunks(self, row: int) -> list[_Chunk]:
    """From the one in which the prompt ends."""
    size, frames = self._specs["fine"].crop_frames, self._num_frames[row]
    first = len(self._prompts[row]) // size * size
    return [_Chunk(row, at, min(at + size, frames)) for at in range(first, frames, size)]

  def _draw_fine(self, chunks: Sequence[_Chunk], *, in_pieces: bool) -> Iterator[list[Codes]]:
    """All levels of each chunk as far as they are drawn; frames of the prompt keep theirs."""
    spec = self._specs["fine"]
    levels, first = spec.num_target_quantizers, spec.first_target_quantizer
    prompts, folds = {}, []
    for number, (row, start, end) in enumerate(chunks):
      nothing = np.zeros((end - start, levels), np.int32)
      codes = np.concatenate([self._coarse[row][start:end], nothing], axis=1)
      sequence = stage_sequence(spec, None, codes)
      given = len(sequence.tokens) - nothing.size
      forced = spec.layout.flatten_codes(self._prompts[row][start:end, first:], first)
      prompts[number] = Prompt(sequence.tokens[:given], sequence.frame_ids[:given], 1, forced)
      folds.append((self._samples[row], start // spec.crop_frames))
    count = levels * max(chunk.end - chunk.start for chunk in chunks)
    for drawn in self._draw("fine", prompts, count, 0, folds, in_pieces=in_pieces):
      made = []
      for number, (row, start, end) in enumerate(chunks):
        frames = min(len(drawn[number]) // levels, end - start)
        fine = spec.layout.unflatten_ids(drawn[number][: frames * levels], levels, first)
        made.append(np.concatenate([self._coarse[row][start : start + frames], fine], axis=1))
      yield made

  def _draw(
    self,
    stage: str,
    prompts: Mapping[int, Prompt],
    num_tokens: int,
    index: int,
    folds: Sequence[tuple[int, ...]] | None = None,
    *,
    in_pieces: bool,
  ) -> Iterator[dict[int, Ids]]:
    """What is drawn after each prompt so far, once or as it grows.

    Args:
      prompts: by row, or by any number if `folds` is given.
      index: sets apart the calls for one stage.
      folds: for each prompt, what is folded into its key; by default its row's sample.
    """
    rows = list(prompts)
    folds = [(self._samples[row],) for row in rows] if folds is None else folds
    stream = STAGE_NAMES.index(stage) + len(STAGE_NAMES) * index
    numbers = np.array([(*fold, stream) for fold in folds], np.uint32)
    keys = _row_keys(np.uint32(self._seed), numbers)
    sampler, options = self._samplers[stage], getattr(self._options, stage)
    asked = list(prompts.values()), num_tokens, keys, options
    report = self._progress and functools.partial(self._progress, stage)
    started = time.perf_counter()
    if in_pieces:
      drawn = np.zeros((len(rows), 0), np.int32)
      for piece in sampler.stream(*asked):
        drawn = np.concatenate([drawn, piece], axis=1)
        self._timings[stage] += time.perf_counter() - started
        if report:
          report(drawn.shape[1], num_tokens)
        yield dict(zip(rows, drawn, strict=True))
        started = time.perf_counter()
    else:
      drawn = sampler.sample(*asked, progress=report)
      self._timings[stage] += time.perf_counter() - started
      yield dict(zip(rows, drawn, strict=True))


def _row_keys_fn(
  seed: UInt32[Array | np.ndarray | np.uint32, ""],
  numbers: UInt32[Array | np.ndarray, "rows count"],
) -> Key[Array, "rows"]:
  """Each row's key: the seed's, with one of the row's numbers after the other folded into it."""
  key = jax.random.key(seed)
  return jax.vmap(lambda row: functools.reduce(jax.random.fold_in, row, key))(numbers)


_row_keys = StoredProgram(_row_keys_fn)


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
