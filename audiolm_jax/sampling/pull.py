"""Tracks: streams of tokens that a cascade extends on demand.

    text ──▶ semantic ──▶ coarse ──▶ fine          a track extends those that it
         ◀── until 2 s ◀── until 2 s ◀── pull      reads; times are in seconds

A call of `extend` samples one piece: a segment of tokens, a window or chunks. A stream requests one
frame after another, a sample all of them, so that chunks are sampled in one batch; both have the
same tokens.

A track whose tokens have no position in time derives it from the codes of its reader before it
continues.
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
    num_frames: frames of the whole clip in the resulting stream; None if a stage ends it.
    prompt: first tokens of streams that stages write, by key; semantic tokens with their repeats.
    given: whole streams by key, which replace the stages that would write them.
    first_sample: number of the clip's first sample, on which its random numbers depend.
  """

  num_frames: int | None
  prompt: Record = {}
  given: Record = {}
  first_sample: int = 0


class Call:
  """One call of a cascade, as its tracks use it.

  Attributes:
    seconds: length of the clip of each row; None if a stage ends it.
    samples: sample number of each row.
    overlap_seconds: see `CascadeOptions`.
    options: maps a stage's name to its options.
    timings: seconds by stage.
    scores: by stage, the mean log-probability of the drawn tokens of each row, of stages that
      compute it.
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
    """Returns the progress callback of a stage, or None without one."""
    progress = self._progress
    return None if progress is None else lambda done, total: progress(stage, done, total)

  def timed(self, stage: str, function: Callable[[], Result]) -> Result:
    """Calls a function and adds its time to the timing of the stage."""
    started = time.perf_counter()
    result = function()
    self.timings[stage] += time.perf_counter() - started
    return result

  def timed_pieces(self, stage: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yields the pieces and adds their time to the timing of the stage."""
    while (piece := self.timed(stage, lambda: next(pieces, None))) is not None:
      yield piece


class Track(abc.ABC):
  """A stream of several rows, which may end at different times.

  Attributes:
    stream: description of the stream.
    rows: tokens of each row so far, those of a prompt first.
    may_end: whether the track may find the end of a row while it extends it.
  """

  stream: Stream
  rows: list[Tokens]
  may_end = False

  @abc.abstractmethod
  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Samples the next piece of rows that do not reach a time yet.

    Args:
      until: seconds by row.
      index: index of the reader's window, which distinguishes draws.

    Returns:
      Whether a piece was sampled; False if all rows reach their times or have ended.
    """

  def extend_to(self, until: Mapping[int, float], index: int = 0) -> None:
    """Extends the rows up to a time, or to their end; see `extend`."""
    while self.extend(until, index):
      pass

  def end(self, row: int) -> float | None:
    """Returns the time in seconds at which a row ends; None if it is not known yet."""
    del row
    return None

  def windows(
    self, windows: Mapping[int, Window], frame_rate: float, index: int
  ) -> dict[int, Tokens]:
    """Returns the tokens that cover each row's window number `index`.

    Args:
      windows: windows by row, in frames of the reader.
      frame_rate: rate of these frames.
      index: index of the windows.
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
    """Returns the tokens of each row for the result."""
    return self.rows


class Given(Track):
  """A stream that is known completely.

  Args:
    stream: description of the stream.
    rows: its tokens, semantic ones with their repeats.
    collapse: whether its readers drop repeats.
  """

  def __init__(self, stream: Stream, rows: list[Tokens], collapse: bool):
    self.stream, self.rows, self._collapse = stream, rows, collapse

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    del until, index
    return False

  def end(self, row: int) -> float | None:
    # A source has its own time.
    rate = None if self.stream.role is Role.SOURCE else self.stream.rate
    return None if rate is None else len(self.rows[row]) / rate

  def tokens(self) -> list[Tokens]:
    return [collapse_repeats(row) if self._collapse else row for row in self.rows]


class Targets(Track):
  """The tokens that a stage writes in one call.

  Args:
    spec: the stage.
    call: the call of the cascade.
    reads: the tracks that the stage reads, by key.
    prompts: first tokens of each row in the stage's stream, at all known levels.
  """

  def __init__(
    self, spec: StageSpec, call: Call, reads: Mapping[str, Track], prompts: Sequence[Tokens]
  ):
    self.spec, self.stream = spec, spec.writes
    self.call, self.reads, self.prompts = call, reads, prompts
    self.rows = list(prompts)
    self.may_end = any(track.may_end for track in reads.values())

  def end(self, row: int) -> float | None:
    """Returns the earliest known end of the clip and of the streams that the stage reads."""
    ends = [self.call.seconds[row], *(track.end(row) for track in self.reads.values())]
    return min((end for end in ends if end is not None), default=None)

  def total(self, row: int) -> int | None:
    """Returns the steps of a row; None if its end is not known yet."""
    end = self.end(row)
    return None if end is None else steps_until(end, self.stream.rate or 0.0)

  def is_read_by(self, reader: "Targets", retokenize: Callable[[Tokens], Tokens] | None) -> None:
    """Receives the reader of the stage's tokens before anything is drawn.

    Args:
      reader: the targets that read this track.
      retokenize: maps the codes of the reader to tokens of this stage.
    """


@runtime_checkable
class Sampler(Protocol):
  """Samples from a stage. The class of each kind is called with a `Stage` only."""

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
      semantic_rate: tokens per second of the training data, if repeats are collapsed.
    """
    ...

  def rehearsed(self) -> "Sampler | None":
    """Returns a sampler that draws at random and prepares programs; None if it has none."""
    ...
