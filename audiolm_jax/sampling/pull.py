"""Tracks: streams of tokens that a cascade extends on demand.

    text ──▶ semantic ──▶ coarse ──▶ fine          a track extends the tracks that
         ◀── until 2 s ◀── until 2 s ◀── pull      it reads up to a time in seconds

A call of `extend` samples one piece: a segment of tokens, a window or chunks. `Cascade.stream`
requests one frame after another. `Cascade.sample` requests all frames at once, so that all chunks
are sampled in one batch. Both sample the same tokens.

Semantic tokens without repeats have no positions in time. Before their track samples more
tokens, it computes the positions from the codes of the stage that reads them.
"""

import abc
import collections
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Key

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.streams import Record, Role, Stream
from audiolm_jax.lm.stage import Stage, StageSpec
from audiolm_jax.lm.tokens import collapse_repeats
from audiolm_jax.sampling.keys import draw_keys
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.windows import Window, steps_of_frames, steps_until

Progress = Callable[[str, int, int], None]
Tokens = np.ndarray  # np.ndarray [steps] or [steps, levels]

Result = TypeVar("Result")
Piece = TypeVar("Piece")


class Clip(NamedTuple):
  """A clip to sample.

  Attributes:
    num_frames: frames of the whole clip in the stream of the result; None if a stage or a given
      stream ends the clip.
    prompt: by key, the first tokens of streams that stages write; semantic tokens include repeats.
    given: by key, whole streams; stages that would write these streams are not sampled.
    first_sample: number of the first sample of the clip; the random numbers of a sample depend on
      its number.
  """

  num_frames: int | None
  prompt: Record = {}
  given: Record = {}
  first_sample: int = 0


class Call:
  """The settings and measurements of one call of a cascade, which its tracks share.

  Attributes:
    seconds: length of the clip of each row in seconds; None if `Clip.num_frames` is None.
    samples: sample number of each row.
    overlap_seconds: see `CascadeOptions`.
    options: maps the name of a stage to its sampling options.
    timings: computation time in seconds by the name of the stage.
    scores: for each stage that computes scores, by name, the mean log-probability of the drawn
      tokens of each row.
  """

  def __init__(
    self,
    *,
    seconds: Sequence[float | None],
    samples: Sequence[int],
    seed: int,
    options: Callable[[str], SamplingOptions],
    overlap_seconds: float,
    progress: Progress | None,
  ):
    self.seconds, self.samples = seconds, samples
    self.overlap_seconds = overlap_seconds
    self.options = options
    self.timings: dict[str, float] = collections.defaultdict(float)
    self.scores: dict[str, np.ndarray] = {}
    self._seed, self._progress = seed, progress

  def keys(self, stage: str, index: int, folds: Sequence[tuple[int, ...]]) -> Key[Array, "rows"]:
    """Returns the random keys of one draw of a stage; see `draw_keys`."""
    return draw_keys(self._seed, stage, index, folds)

  def report(self, stage: str) -> Callable[[int, int], None] | None:
    """Returns the progress callback of a stage; None if the call has no callback."""
    progress = self._progress
    return None if progress is None else lambda done, total: progress(stage, done, total)

  def timed(self, stage: str, function: Callable[[], Result]) -> Result:
    """Calls a function and adds its time to the timing of the stage."""
    started = time.perf_counter()
    result = function()
    self.timings[stage] += time.perf_counter() - started
    return result

  def timed_pieces(self, stage: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yields the pieces and adds the time of their computation to the timing of the stage."""
    while (piece := self.timed(stage, lambda: next(pieces, None))) is not None:
      yield piece


class Track(abc.ABC):
  """The tokens of one stream in several rows, which may end at different times.

  Attributes:
    stream: description of the stream.
    rows: tokens of each row so far; they begin with the prompt.
    may_end: whether sampling can determine the end of a row, for example by an end token.
  """

  stream: Stream
  rows: list[Tokens]
  may_end = False

  @abc.abstractmethod
  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Samples the next piece of the rows that do not reach their times yet.

    Args:
      until: by row, the time in seconds to reach.
      index: index of the reader's window; different indices have different random numbers.

    Returns:
      Whether a piece was sampled; False if all rows reach their times or have ended.
    """

  def extend_to(self, until: Mapping[int, float], index: int = 0) -> None:
    """Extends each row up to its time or to its end; see `extend`."""
    while self.extend(until, index):
      pass

  def end(self, row: int) -> float | None:
    """Returns the time in seconds at which a row ends; None if it is not known yet."""
    del row
    return None

  def windows(
    self, windows: Mapping[int, Window], frame_rate: float, index: int
  ) -> dict[int, Tokens]:
    """Extends the rows up to the ends of their windows and returns the tokens of each window.

    If the stream has no rate, extends the rows to their ends and returns all their tokens.

    Args:
      windows: windows by row, in frames of the reader.
      frame_rate: frames per second of the reader.
      index: index of the windows, see `extend`.
    """
    rate = self.stream.rate
    if rate is None:
      self.extend_to(dict.fromkeys(windows, float("inf")), index)
      return {row: self.rows[row] for row in windows}
    self.extend_to({row: window.end / frame_rate for row, window in windows.items()}, index)
    return {
      row: self.rows[row][steps_of_frames(window.start, window.end, frame_rate, rate)]
      for row, window in windows.items()
    }

  def tokens(self) -> list[Tokens]:
    """Returns the tokens of each row, in the form of the result of the cascade."""
    return self.rows


class Given(Track):
  """A stream that is known completely.

  Args:
    stream: description of the stream.
    rows: tokens of each row; semantic tokens include repeats.
    collapse: whether the stages that read the stream drop repeats; `tokens` then drops repeats too.
  """

  def __init__(self, stream: Stream, rows: list[Tokens], collapse: bool):
    self.stream, self.rows, self._collapse = stream, rows, collapse

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    del until, index
    return False

  def end(self, row: int) -> float | None:
    # The time of a source is not the time of the clip.
    rate = None if self.stream.role is Role.SOURCE else self.stream.rate
    return None if rate is None else len(self.rows[row]) / rate

  def tokens(self) -> list[Tokens]:
    return [collapse_repeats(row) if self._collapse else row for row in self.rows]


class Targets(Track):
  """The tokens that a stage writes in one call.

  Args:
    spec: spec of the stage.
    call: the call of the cascade.
    reads: the tracks that the stage reads, by key.
    prompts: first tokens of each row, in the stream that the stage writes.
  """

  def __init__(
    self, spec: StageSpec, call: Call, reads: Mapping[str, Track], prompts: Sequence[Tokens]
  ):
    self.spec, self.stream = spec, spec.writes
    self.call, self.reads, self.prompts = call, reads, prompts
    self.rows = list(prompts)
    self.may_end = any(track.may_end for track in reads.values())

  def end(self, row: int) -> float | None:
    """Returns the time in seconds at which a row ends; None if it is not known yet.

    This is the earliest known end of the clip and of the streams that the stage reads.
    """
    ends = [self.call.seconds[row], *(track.end(row) for track in self.reads.values())]
    return min((end for end in ends if end is not None), default=None)

  def total(self, row: int) -> int | None:
    """Returns the number of steps of a row; None if its end is unknown, 0 without a stream rate."""
    end = self.end(row)
    return None if end is None else steps_until(end, self.stream.rate or 0.0)

  def is_read_by(self, reader: "Targets", retokenize: Callable[[Tokens], Tokens] | None) -> None:
    """Registers a reader of this track, before tokens are drawn; does nothing by default.

    Args:
      reader: the targets that read this track.
      retokenize: maps the codes of the reader to tokens of this stage; None if not available.
    """


@runtime_checkable
class Sampler(Protocol):
  """Samples from a stage. The constructor of each implementation takes only the `Stage`."""

  spec: StageSpec

  def __init__(self, stage: Stage): ...

  def targets(
    self,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Tokens],
    semantic_rate: float | None,
  ) -> Targets:
    """Returns the targets of the stage in one call.

    Args:
      call: the call of the cascade.
      reads: the tracks that the stage reads, by key.
      prompts: first tokens of each row.
      semantic_rate: semantic tokens per second of the training data without repeats; None if
        unknown.
    """
    ...

  def rehearsed(self) -> "Sampler | None":
    """Returns a sampler that prepares programs and draws random tokens; None if unsupported."""
    ...
