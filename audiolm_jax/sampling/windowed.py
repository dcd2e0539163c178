"""Targets that are sampled in windows; each window overlaps the previous window.

|---- window 1 ----|
               |ov.|---- new ----|      ov.: overlap, whose frames are known
"""

import abc
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm.stage import StageSpec
from audiolm_jax.sampling.pull import Call, Targets, Tokens, Track
from audiolm_jax.sampling.windows import Window, next_window, steps_until


class WindowedTargets(Targets):
  """Frames of a stream with a rate, sampled in windows of at most the length of a training example.

  Drawn tokens do not change in later windows; the windows of all rows are drawn in parallel.

  Raises:
    ConfigError: the stream has no rate, or the training examples of the stage are whole clips.
  """

  def __init__(
    self, spec: StageSpec, call: Call, reads: Mapping[str, Track], prompts: Sequence[Tokens]
  ):
    super().__init__(spec, call, reads, prompts)
    if not self.stream.rate or spec.crop_length is None:
      raise ConfigError(f"the {spec.name} stage cannot be sampled in windows: it has no rate")
    self.rows = [np.asarray(prompt)[:, : self.stream.end_level] for prompt in prompts]
    self.rate = self.stream.rate
    self.crop = self.stream.steps(spec.crop_length)
    self.overlap = min(self.stream.steps(self.overlap_seconds), self.crop * 3 // 4)
    self._drawing = self._draw_all()

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Draws the next piece of the current windows of all rows, if a row does not reach its time."""

    def is_short(row: int) -> bool:
      total = self.total(row)
      wanted = float("inf") if until[row] == float("inf") else steps_until(until[row], self.rate)
      return len(self.rows[row]) < (wanted if total is None else min(wanted, total))

    if not any(is_short(row) for row in until):
      return False
    extended = next(self._drawing, None)
    if extended is None:
      return False
    for row, tokens in extended.items():
      self.rows[row] = tokens
    return True

  @property
  def overlap_seconds(self) -> float:
    """Seconds of known frames at the start of a window; at most 3/4 of a crop is used."""
    return self.call.overlap_seconds

  @property
  def align(self) -> int:
    """The number of frames per step of the slowest source; windows begin at its multiples."""
    rates = [track.stream.rate for track in self.reads.values()]
    return max([1, *(round(self.rate / rate) for rate in rates if rate)])

  def longest_new(self, index: int) -> float | None:
    """Returns the maximum seconds of new audio in a window; None if only the crop limits it."""
    del index

  @abc.abstractmethod
  def draw(
    self, windows: Mapping[int, Window], sources: Mapping[str, Mapping[int, Tokens]], index: int
  ) -> Iterator[Mapping[int, Tokens]]:
    """Yields, by row, all new frames that have been drawn so far, once or several times.

    Args:
      windows: windows by row; `self.rows` contains the known frames.
      sources: by key and row, the tokens that cover the window.
      index: index of the window.
    """

  def _draw_all(self) -> Iterator[dict[int, Tokens]]:
    """Yields, by row, all tokens of the rows that have new tokens, window by window."""
    index, rows = 0, range(len(self.rows))
    while windows := {row: window for row in rows if (window := self._window(row, index))}:
      sources = {key: track.windows(windows, self.rate, index) for key, track in self.reads.items()}
      before = {row: self.rows[row] for row in windows}
      pieces = iter(self.draw(windows, sources, index))
      for drawn in self.call.timed_pieces(self.spec.name, pieces):
        yield {row: np.concatenate([before[row], new]) for row, new in drawn.items()}
      index += 1

  def _window(self, row: int, index: int) -> Window | None:
    """Returns the next window of a row; None if the row has ended."""
    known = len(self.rows[row])
    if self.may_end:
      # The sources up to the end of the window determine whether the row ends in the window.
      end = self._limited_window(row, known, index).end
      for track in self.reads.values():
        track.extend_to({row: end / self.rate}, index)
    total = self.total(row)
    if total is not None and known >= total:
      return None
    return self._limited_window(row, known, index)

  def _limited_window(self, row: int, known: int, index: int) -> Window:
    """Returns the window after `known` frames.

    It has at most `longest_new` seconds of new audio, rounded up to a multiple of `align` frames.
    """
    total, longest = self.total(row), self.longest_new(index)
    if longest is not None:
      end = known + -(-self.stream.steps(longest) // self.align) * self.align
      total = end if total is None else min(total, end)
    return self.next_window(row, known, total)

  def next_window(self, row: int, known: int, total: int | None) -> Window:
    """Returns the next window of a row with `known` frames; see `windows.next_window`."""
    del row
    return next_window(known, total, self.crop, self.overlap, self.align)
