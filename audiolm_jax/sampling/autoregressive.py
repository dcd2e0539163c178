"""Sampling of autoregressive stages: semantic tokens, codes in windows and codes in chunks."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Key

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.streams import SEMANTIC
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.stages import AutoregressiveSpec, Source, stage_sequence
from audiolm_jax.sampling.decoder import Prompt, StageSampler
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.pull import Call, Targets, Tokens, Track
from audiolm_jax.sampling.semantic_targets import CollapsedRepeats, KeptRepeats
from audiolm_jax.sampling.windowed import WindowedTargets
from audiolm_jax.sampling.windows import Window

# The axes are anonymous, because rows differ in length.
Ids = Int[np.ndarray, "_"]
Codes = Int[np.ndarray, "_ _"]


class AutoregressiveSampler:
  """Samples from an autoregressive stage; see `pull.Sampler`."""

  spec: AutoregressiveSpec

  def __init__(self, stage: Stage):
    decoder = StageSampler(stage)
    self.decoder: StageSampler | RehearsedDecoder = decoder
    self.spec = decoder.spec

  def targets(
    self,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Tokens],
    semantic_rate: float | None,
  ) -> Targets:
    """Returns `Targets`, of a class that depends on what the stage reads and predicts.

    Raises:
      UserError: the options have settings of parallel stages.
      ConfigError: a semantic stage collapses repeats and `semantic_rate` is not given.
    """
    spec = self.spec
    options = call.options(spec.name)
    options.check_sequential(spec.name)
    if spec.predicts_semantic:

      def draw(prompts: Mapping[int, Prompt], num_tokens: int, index: int) -> Mapping[int, Ids]:
        folds = [(call.samples[row],) for row in prompts]
        pieces = drawn_tokens(self, call, list(prompts.values()), num_tokens, index, folds)
        *_, drawn = call.timed_pieces(spec.name, pieces)
        return dict(zip(prompts, drawn, strict=True))

      if spec.collapse_repeats:
        return CollapsedRepeats(spec, call, prompts, draw, semantic_rate)
      return KeptRepeats(spec, call, prompts, draw)
    if spec.source is Source.COARSE:
      return ChunkedCodes(self, call, reads, prompts)
    return WindowedCodes(self, call, reads, prompts)

  def rehearsed(self) -> "AutoregressiveSampler":
    """Returns a sampler that prepares programs and draws random tokens without the model."""
    assert isinstance(self.decoder, StageSampler)
    other = copy.copy(self)
    other.decoder = RehearsedDecoder(self.decoder)
    return other


def drawn_tokens(
  sampler: AutoregressiveSampler,
  call: Call,
  prompts: Sequence[Prompt],
  num_tokens: int,
  index: int,
  folds: Sequence[tuple[int, ...]],
) -> Iterator[list[Ids]]:
  """Yields the ids of each row that have been drawn so far, once per segment.

  Args:
    sampler: the sampler of the stage.
    call: the call of the cascade.
    prompts: one prompt per row.
    num_tokens: tokens to draw per row.
    index: number of the draw, see `draw_keys`.
    folds: for each row, the numbers that its random key depends on, see `draw_keys`.
  """
  name = sampler.spec.name
  keys, options = call.keys(name, index, folds), call.options(name)
  return sampler.decoder.stream(prompts, num_tokens, keys, options, progress=call.report(name))


class WindowedCodes(WindowedTargets):
  """Codes of the first levels, sampled in windows, given semantic tokens or no source."""

  spec: AutoregressiveSpec

  def __init__(
    self,
    sampler: AutoregressiveSampler,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Codes],
  ):
    super().__init__(sampler.spec, call, reads, prompts)
    self._sampler = sampler

  @property
  def align(self) -> int:
    """Number of frames per semantic token, even without a source; the windows are aligned to it."""
    return self.spec.frames_per_step

  def draw(
    self, windows: Mapping[int, Window], sources: Mapping[str, Mapping[int, Tokens]], index: int
  ) -> Iterator[Mapping[int, Codes]]:
    """Yields, once per segment, the new frames of the windows of all rows, drawn in one batch."""
    spec, levels = self.spec, self.spec.num_target_quantizers
    before = {row: self.rows[row] for row in windows}
    prompts: list[Prompt] = []
    new: dict[int, int] = {}
    for row, (start, known, end) in windows.items():
      semantic = sources[SEMANTIC][row] if SEMANTIC in sources else None
      given = stage_sequence(spec, semantic, before[row][start:known])
      frame = 1 + known - start
      prompts.append(Prompt(given.tokens, given.frame_ids, frame, earlier=before[row]))
      new[row] = end - known
    count = levels * max(new.values())
    folds = [(self.call.samples[row],) for row in windows]
    for drawn in drawn_tokens(self._sampler, self.call, prompts, count, index, folds):
      codes: dict[int, Codes] = {}
      for row, ids in zip(windows, drawn, strict=True):
        frames = min(len(ids) // levels, new[row])
        codes[row] = spec.layout.unflatten_ids(ids[: frames * levels], levels)
      yield codes


class FrameSpan(NamedTuple):
  """Frames `start .. end - 1` of a row, which are sampled as one chunk."""

  row: int
  start: int
  end: int


class ChunkedCodes(Targets):
  """Codes of the levels after those of the source, sampled in independent chunks.

  Chunks begin at multiples of the stage's crop. The first chunk contains the first frame after the
  prompt. All chunks up to the requested times form one batch.
  """

  spec: AutoregressiveSpec

  def __init__(
    self,
    sampler: AutoregressiveSampler,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Codes],
  ):
    super().__init__(sampler.spec, call, reads, prompts)
    self._sampler = sampler
    (self._source,) = reads.values()
    self.rate = self.spec.frame_rate
    # The first frame of the next chunk of each row. The prompt from this frame on is forced there.
    self._next = [
      len(prompt) // self.spec.crop_frames * self.spec.crop_frames for prompt in prompts
    ]
    self.rows = [prompt[:start] for prompt, start in zip(prompts, self._next, strict=True)]
    self._drawing: Iterator[dict[int, Codes]] = iter(())

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Draws the next segment of the current chunks, or of new chunks up to the given times."""
    extended = next(self._drawing, None)
    if extended is None:
      chunks = [chunk for row, seconds in until.items() for chunk in self._chunks(row, seconds)]
      if not chunks:
        return False
      self._drawing = self._draw(chunks)
      extended = next(self._drawing)
    for row, codes in extended.items():
      self.rows[row] = codes
    return True

  def _chunks(self, row: int, seconds: float) -> Iterator[FrameSpan]:
    size = self.spec.crop_frames
    start = self._next[row]
    while start < seconds * self.rate - 1e-6:
      if self.may_end:
        self._pull([FrameSpan(row, start, start + size)])
      total = self.total(row)
      end = start + size if total is None else min(start + size, total)
      if end <= start:
        return
      yield FrameSpan(row, start, end)
      start += size

  def _pull(self, chunks: Sequence[FrameSpan]) -> None:
    """Extends the source to the ends of the chunks."""
    until: dict[int, float] = {}
    for row, _, end in chunks:
      until[row] = max(until.get(row, 0.0), end / self.rate)
    self._source.extend_to(until)

  def _draw(self, chunks: Sequence[FrameSpan]) -> Iterator[dict[int, Codes]]:
    """Yields, once per segment, the codes of the rows; frames of the prompt keep their codes."""
    spec, size = self.spec, self.spec.crop_frames
    levels, first = spec.num_target_quantizers, spec.first_target_quantizer
    self._pull(chunks)
    prompts: list[Prompt] = []
    folds: list[tuple[int, int]] = []
    for row, start, end in chunks:
      source = self._source.rows[row]
      nothing = np.zeros((end - start, levels), np.int32)
      sequence = stage_sequence(spec, None, np.concatenate([source[start:end], nothing], axis=1))
      given = len(sequence.tokens) - nothing.size
      forced = spec.layout.flatten_codes(self.prompts[row][start:end, first:], first)
      prompts.append(
        Prompt(
          sequence.tokens[:given],
          sequence.frame_ids[:given],
          1,
          forced,
          earlier=self._known(row, start),
          ahead=source[start:end],
        )
      )
      folds.append((self.call.samples[row], start // size))
    count = levels * max(chunk.end - chunk.start for chunk in chunks)
    before = {chunk.row: self.rows[chunk.row] for chunk in chunks}
    for row, start, _ in chunks:
      self._next[row] = max(self._next[row], start + size)
    pieces = drawn_tokens(self._sampler, self.call, prompts, count, 0, folds)
    for drawn in self.call.timed_pieces(spec.name, pieces):
      made = {row: [rows] for row, rows in before.items()}
      for (row, start, end), ids in zip(chunks, drawn, strict=True):
        frames = min(len(ids) // levels, end - start)
        fine = spec.layout.unflatten_ids(ids[: frames * levels], levels, first)
        source = self._source.rows[row][start : start + frames]
        made[row].append(np.concatenate([source, fine], axis=1))
      yield {row: np.concatenate(parts) for row, parts in made.items()}

  def _known(self, row: int, frames: int) -> Codes:
    """Returns the source and prompt codes of the first `frames` frames of a row; -1 elsewhere."""
    source, prompt = self._source.rows[row][:frames], self.prompts[row][:frames]
    known = np.full((frames, self.spec.num_quantizers), -1, np.int32)
    known[:, : source.shape[1]] = source
    known[: len(prompt)] = prompt[:, : self.spec.num_quantizers]
    return known


class RehearsedDecoder:
  """Replaces a decoder in `Cascade.rehearsal`: prepares its programs and draws random ids."""

  def __init__(self, decoder: StageSampler):
    self._decoder = decoder
    self._random = np.random.default_rng(0)

  def stream(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
  ) -> Iterator[list[Ids]]:
    """Yields random legal ids of each row, all at once."""
    del progress
    self._decoder.prepare(prompts, num_tokens, keys, options)
    spec = self._decoder.spec
    steps = np.arange(num_tokens)
    starts, size = spec.layout.legal_range(
      steps, spec.first_target_quantizer, spec.num_target_quantizers
    )
    yield [*starts + self._random.integers(size, size=(len(prompts), num_tokens), dtype=np.int32)]
