"""What a cascade pulls: tracks, each of which holds a stream of every row and extends it on demand.

    text ──▶ semantic ──▶ coarse ──▶ fine          a track pulls those that it reads, as far as it
         ◀── until 2 s ◀── until 2 s ◀── pull      needs them; time is in seconds of the clip

A track whose tokens have no place in time asks what its reader made of them before it continues.
"""

import abc
import collections
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Key

from audiolm_jax.core.streams import Record, Stream
from audiolm_jax.lm.stage import Stage, StageSpec
from audiolm_jax.lm.tokens import collapse_repeats
from audiolm_jax.sampling.keys import draw_keys
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.windows import Window, steps_of_frames, steps_until

Progress = Callable[[str, int, int], None]
Tokens = Any  # np.ndarray [steps] or [steps, levels]


class Clip(NamedTuple):
  """What is known of a clip that is to be made.

  Attributes:
    num_frames: of the whole clip, in the stream that is made; None where a stage ends it.
    prompt: the beginnings of streams that stages write, by key; semantic tokens with their repeats.
    given: whole streams, by key, in place of stages that would write them.
  """

  num_frames: int | None
  prompt: Record = {}
  given: Record = {}


class Call:
  """One call of a cascade, as its tracks see it.

  Attributes:
    seconds: of each row's clip; None where a stage ends it.
    samples: of each row, the number of the sample that it is.
    in_pieces: whether tokens are handed on while they are drawn; then there is one row.
    overlap_seconds: see `CascadeOptions`.
    timings: seconds by stage.
  """

  def __init__(
    self,
    *,
    seconds: Sequence[float | None],
    samples: Sequence[int],
    seed: int,
    options: Callable[[str], SamplingOptions],
    overlap_seconds: float,
    in_pieces: bool,
    progress: Progress | None,
  ):
    self.seconds, self.samples, self.in_pieces = seconds, samples, in_pieces
    self.overlap_seconds = overlap_seconds
    self.options = options
    self.timings: dict[str, float] = collections.defaultdict(float)
    self._seed, self._progress = seed, progress

  def keys(self, stage: str, index: int, folds: Sequence[tuple[int, ...]]) -> Key[Array, "rows"]:
    """Random keys of one draw of a stage; see `draw_keys`."""
    return draw_keys(self._seed, stage, index, folds)

  def report(self, stage: str) -> Callable[[int, int], None] | None:
    """What is called with a stage's tokens drawn and to draw; None where nobody asks."""
    progress = self._progress
    return None if progress is None else lambda done, total: progress(stage, done, total)

  def timed(self, stage: str, pieces: Iterator[Any]) -> Iterator[Any]:
    """The same pieces; the time that they take counts for the stage."""
    while True:
      started = time.perf_counter()
      piece = next(pieces, None)
      self.timings[stage] += time.perf_counter() - started
      if piece is None:
        return
      yield piece


class Track(abc.ABC):
  """A stream of each row. Rows go by number, since some end before others.

  Attributes:
    stream: what it is.
    rows: the tokens of each row so far, those of a prompt first.
    may_end: whether an end of its own may turn up while it is extended.
  """

  stream: Stream
  rows: list[Tokens]
  may_end = False

  @abc.abstractmethod
  def extend(self, until: Mapping[int, float], index: int = 0) -> Iterator[None]:
    """Extends the rows to a time, or to their end; pauses whenever there is more.

    Args:
      until: seconds, by row.
      index: of the reader's window, for draws of their own random numbers.
    """

  def end(self, row: int) -> float | None:
    """The second at which a row ends; None while that is not known."""
    del row
    return None

  def windows(
    self, windows: Mapping[int, Window], frame_rate: float, index: int
  ) -> dict[int, Tokens]:
    """The tokens that cover each row's window number `index`.

    Args:
      windows: by row, in frames of the reader.
      frame_rate: of these.
    """
    rate = self.stream.rate
    if rate is None:
      for _ in self.extend(dict.fromkeys(windows, float("inf")), index):
        pass
      return {row: self.rows[row] for row in windows}
    for _ in self.extend({row: window.end / frame_rate for row, window in windows.items()}, index):
      pass
    return {
      row: self.rows[row][steps_of_frames(window.start, window.end, frame_rate, rate)]
      for row, window in windows.items()
    }

  def tokens(self) -> list[Tokens]:
    """Of each row, for the result."""
    return self.rows


class Given(Track):
  """A stream that is known as a whole.

  Args:
    stream: what it is.
    rows: its tokens, semantic ones with their repeats.
    collapse: whether its readers drop repeats.
  """

  def __init__(self, stream: Stream, rows: list[Tokens], collapse: bool):
    self.stream, self.rows, self._collapse = stream, rows, collapse

  def extend(self, until: Mapping[int, float], index: int = 0) -> Iterator[None]:
    yield from ()

  def end(self, row: int) -> float | None:
    return None if self.stream.rate is None else len(self.rows[row]) / self.stream.rate

  def tokens(self) -> list[Tokens]:
    return [collapse_repeats(row) if self._collapse else row for row in self.rows]


class Targets(Track):
  """What a stage writes in one call.

  Args:
    spec: of the stage.
    call: what it is part of.
    reads: the tracks of what it reads, by key.
    prompts: the beginning of each row in the stage's stream, all levels that are known.
  """

  def __init__(
    self, spec: StageSpec, call: Call, reads: Mapping[str, Track], prompts: Sequence[Tokens]
  ):
    self.spec, self.stream = spec, spec.writes
    self.call, self.reads, self.prompts = call, reads, prompts
    self.rows = list(prompts)
    self.may_end = any(track.may_end for track in reads.values())

  def end(self, row: int) -> float | None:
    """The first of the clip's and of those of what the stage reads, as far as they are known."""
    ends = [self.call.seconds[row], *(track.end(row) for track in self.reads.values())]
    return min((end for end in ends if end is not None), default=None)

  def total(self, row: int) -> int | None:
    """Steps of a row that ends at a known time; None where the end is not known yet."""
    end = self.end(row)
    return None if end is None else steps_until(end, self.stream.rate or 0.0)

  def is_read_by(self, reader: "Targets", retokenize: Callable[[Tokens], Tokens] | None) -> None:
    """Receives the reader of the stage's tokens, before anything is drawn.

    Args:
      retokenize: the reader's codes back to tokens of this stage.
    """


@runtime_checkable
class Sampler(Protocol):
  """A stage made ready to sample. The class of a kind is called with the `Stage` alone."""

  spec: StageSpec

  def __init__(self, stage: Stage): ...

  def targets(
    self,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Tokens],
    semantic_rate: float | None,
  ) -> Targets:
    """The stage's targets in one call.

    Args:
      semantic_rate: tokens per second of the training data where repeats are collapsed.
    """
    ...

  def rehearsed(self) -> "Sampler | None":
    """One that draws at random and makes programs ready; None for a kind that stores none."""
    ...
