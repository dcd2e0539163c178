"""Sampling of the parallel stage: windows whose codes are filled in level by level."""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int, Key

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.streams import SEMANTIC
from audiolm_jax.lm.parallel import ParallelSpec
from audiolm_jax.lm.stage import Stage
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.parallel_decoder import Gap, ParallelDecoder, Progress
from audiolm_jax.sampling.pull import Call, Targets, Tokens, Track
from audiolm_jax.sampling.windowed import WindowedTargets
from audiolm_jax.sampling.windows import Window, next_window

Codes = Int[np.ndarray, "_ _"]  # anonymous axes, because rows differ in length


class ParallelSampler:
  """Samples from a parallel stage; see `pull.Sampler`."""

  spec: ParallelSpec

  def __init__(self, stage: Stage):
    decoder = ParallelDecoder(stage)
    self.decoder: ParallelDecoder | RehearsedParallelDecoder = decoder
    self.spec = decoder.spec

  def targets(
    self,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Tokens],
    semantic_rate: float | None,
  ) -> Targets:
    """Returns targets that are sampled in windows; each piece is a whole window.

    Raises:
      UserError: a processor reads earlier frames, which may not be drawn yet; a processor has
        `is_last`; or `passes` is () although there are processors or plain heads.
    """
    del semantic_rate
    options = call.options(self.spec.name)
    if any(processor.history for processor in options.processors):
      raise UserError(
        f"the {self.spec.name} stage takes no processors that read earlier frames: it has no order "
        "of frames"
      )
    if any(processor.is_last for processor in options.processors):
      raise UserError(
        f"the {self.spec.name} stage takes no processors that run after temperature, top-k and "
        "top-p"
      )
    if options.passes == () and options.processors:
      raise UserError(
        f"the {self.spec.name} stage draws nothing at points, so processors and watermarks have no "
        "effect; set passes, or the watermark to off"
      )
    if options.passes == () and not self.spec.uses_codebooks(self.decoder.config):
      raise UserError(f"the {self.spec.name} stage has plain heads, which predict no points")
    return FilledWindows(self, call, reads, prompts)

  def rehearsed(self) -> "ParallelSampler":
    """Returns a sampler that prepares programs and draws random codes without the model."""
    assert isinstance(self.decoder, ParallelDecoder)
    other = copy.copy(self)
    other.decoder = RehearsedParallelDecoder(self.decoder)
    return other


class FilledWindows(WindowedTargets):
  """Codes of all levels, sampled in windows, given semantic tokens with their repeats.

  With `FillingConfig.voice_seconds`, the decoder also reads the first frames of the prompt before
  each later window, so that the voice does not drift. These frames are called the voice.
  """

  spec: ParallelSpec

  def __init__(
    self,
    sampler: ParallelSampler,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Codes],
  ):
    self._sampler = sampler
    super().__init__(sampler.spec, call, reads, prompts)

  @property
  def overlap_seconds(self) -> float:
    """Overlap of the stage in seconds; overlap of the call if the stage has none."""
    own = self._sampler.decoder.filling.overlap_seconds
    return self.call.overlap_seconds if own is None else own

  def longest_new(self, index: int) -> float | None:
    """Returns `lookahead` of the options times 2^index, at most the crop; None if not set."""
    lookahead = self.call.options(self.spec.name).lookahead
    return None if lookahead is None else min(lookahead * 2.0**index, self.spec.crop_seconds)

  def next_window(self, row: int, known: int, total: int | None) -> Window:
    """Returns the next window; unless it begins at frame 0, it fits in a crop with the voice."""
    whole = super().next_window(row, known, total)
    voice = self._voice_frames(row)
    if not voice or not whole.start:
      return whole
    crop = self.crop - voice
    overlap = min(self.overlap, crop * 3 // 4)
    window = next_window(known, total, crop, overlap, self.align)
    if window.start >= voice or known >= self.crop:
      return window
    end = self.crop if total is None else min(total, self.crop)
    return Window(voice, known, end)

  def draw(
    self, windows: Mapping[int, Window], sources: Mapping[str, Mapping[int, Tokens]], index: int
  ) -> Iterator[Mapping[int, Codes]]:
    """Yields, once, the new frames of the windows of all rows, drawn in one batch."""
    del index  # the random numbers depend on positions in the clip
    call, name = self.call, self.spec.name
    gaps = [self._gap(row, window, sources[SEMANTIC][row]) for row, window in windows.items()]
    keys = call.keys(name, 0, [(call.samples[row],) for row in windows])

    filled = self._sampler.decoder.fill(gaps, keys, call.options(name), progress=call.report(name))
    yield {
      row: codes[len(gap.known) :] for row, gap, codes in zip(windows, gaps, filled, strict=True)
    }

  def _gap(self, row: int, window: Window, semantic: Tokens) -> Gap:
    """Returns the `Gap` of a window; the voice precedes a window that begins after the voice."""
    start, known, end = window
    tokens, codes = self.spec.by_frame(semantic, end - start, start), self.rows[row][start:known]
    voice = self._voice_frames(row)
    if not voice or start < voice:
      return Gap(tokens, codes, start)
    spoken = self.reads[SEMANTIC].windows({row: Window(0, voice, voice)}, self.rate, 0)[row]
    before = self.spec.by_frame(spoken, voice, 0)
    # This start gives the frames after the voice their positions in the clip, on which their random
    # numbers depend.
    return Gap(
      np.concatenate([before, tokens]),
      np.concatenate([self.rows[row][:voice], codes]),
      start - voice,
    )

  def _voice_frames(self, row: int) -> int:
    """Returns the number of frames of the voice, at most half of a crop; 0 for no voice."""
    wanted = self.stream.steps(self._sampler.decoder.filling.voice_seconds)
    frames = min(wanted, len(self.prompts[row]), self.crop // 2)
    return frames // self.align * self.align


class RehearsedParallelDecoder:
  """Replaces a decoder in `Cascade.rehearsal`: prepares its programs and draws random codes."""

  def __init__(self, decoder: ParallelDecoder):
    self._decoder = decoder
    self.config, self.filling = decoder.config, decoder.filling
    self._random = np.random.default_rng(0)

  def fill(
    self,
    gaps: Sequence[Gap],
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
    *,
    progress: Progress | None = None,
  ) -> list[Codes]:
    """Returns the codes of each window: the known codes, then random codes."""
    del progress
    self._decoder.prepare(gaps, keys, options)
    spec = self._decoder.spec
    shapes = [(len(gap.semantic) - len(gap.known), spec.num_quantizers) for gap in gaps]
    drawn = [self._random.integers(spec.codebook_size, size=s, dtype=np.int32) for s in shapes]
    return [np.concatenate([gap.known, new]) for gap, new in zip(gaps, drawn, strict=True)]
