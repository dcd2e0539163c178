"""Targets in windows, each of which overlaps the one before.

|---- window 1 ----|
                          |ov.|---- new ----|      ov.: overlap with given frames and sources
"""

import abc
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm.stage import StageSpec
from audiolm_jax.sampling.pull import Call, Targets, Tokens, Track
from audiolm_jax.sampling.windows import Window, next_window, steps_until


class WindowedTargets(Targets):
  """Frames of a timed stream, at most a training example at a time.

  Drawn tokens do not change in later windows; the windows of all rows are drawn in parallel.
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
    """Draws the next piece of a window, of all rows together."""

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
    """Seconds of existing frames that a window contains, limited to 3/4 of the crop."""
    return self.call.overlap_seconds

  @property
  def align(self) -> int:
    """Windows begin at multiples of this number of frames, where steps of the sources begin."""
    rates = [track.stream.rate for track in self.reads.values()]
    return max([1, *(round(self.rate / rate) for rate in rates if rate)])

  def longest_new(self, index: int) -> float | None:
    """Returns the limit of the seconds of new audio in a window; None for the crop's."""
    del index

  @abc.abstractmethod
  def draw(
    self, windows: Mapping[int, Window], sources: Mapping[str, Mapping[int, Tokens]], index: int
  ) -> Iterator[Mapping[int, Tokens]]:
    """Yields the new frames of each row's window so far, once or as they grow.

    Args:
      windows: windows by row; `rows` contains the frames before `known`.
      sources: by key and row, the tokens that cover the window.
      index: index of the window.
    """

  def _draw_all(self) -> Iterator[dict[int, Tokens]]:
    """Yields the rows that have new tokens, window by window."""
    index, rows = 0, range(len(self.rows))
    while windows := {row: window for row in rows if (window := self._window(row, index))}:
      sources = {key: track.windows(windows, self.rate, index) for key, track in self.reads.items()}
      before = {row: self.rows[row] for row in windows}
      pieces = iter(self.draw(windows, sources, index))
      for drawn in self.call.timed_pieces(self.spec.name, pieces):
        yield {row: np.concatenate([before[row], new]) for row, new in drawn.items()}
      index += 1

  def _window(self, row: int, index: int) -> Window | None:
    """Returns the next window of a row; None at its end."""
    known = len(self.rows[row])
    if self.may_end:
      # Up to the end of the window, the sources determine whether the row ends.
      end = self._limited_window(row, known, index).end
      for track in self.reads.values():
        track.extend_to({row: end / self.rate}, index)
    total = self.total(row)
    if total is not None and known >= total:
      return None
    return self._limited_window(row, known, index)

  def _limited_window(self, row: int, known: int, index: int) -> Window:
    """Returns the window after `known` frames, with at most `longest_new` seconds of new audio."""
    total, longest = self.total(row), self.longest_new(index)
    if longest is not None:
      end = known + -(-self.stream.steps(longest) // self.align) * self.align
      total = end if total is None else min(total, end)
    return self.next_window(row, known, total)

  def next_window(self, row: int, known: int, total: int | None) -> Window:
    """Returns the window of a row after `known` frames of `total`, see `windows.next_window`."""
    del row
    return next_window(known, total, self.crop, self.overlap, self.align)
