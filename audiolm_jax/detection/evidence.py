"""How improbable the green codes of a clip are without a mark.

Without a mark, each community of a level and context is green with probability 1/2, whatever the
audio is. Each counts once, however often it occurs, so the number of green ones has a binomial
distribution. The search over offsets and windows is corrected by the Bonferroni inequality.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt32, UInt64

from audiolm_jax.detection.watermark import Watermark, is_green

WINDOW_SECONDS = 4.0
# Longest beginning that is tested as a whole; windows cover the rest of a long clip.
WHOLE_SECONDS = 600.0


class Findings(NamedTuple):
  """The result for one clip.

  Attributes:
    log10_p: of the clip by key, corrected for all offsets and windows.
    per_second: log10 of the p-value of the window around each second, corrected for offsets only.
  """

  log10_p: Float[np.ndarray, "keys"]
  per_second: Float[np.ndarray, "seconds keys"]


class Evidence:
  """Collects the codes of one clip at several offsets, in bounded memory.

  Args:
    watermark: the watermark to find.
    keys: keys of the green list.
    frame_rate: frames per second.
    offsets: number of offsets.
  """

  def __init__(
    self, watermark: Watermark, keys: UInt32[np.ndarray, "keys 4"], frame_rate: float, offsets: int
  ):
    self._watermark, self._keys, self._rate, self._offsets = watermark, keys, frame_rate, offsets
    levels = watermark.config.levels
    self._context = np.zeros((offsets, 0, levels), np.int32)
    # Of the beginning, or of all frames from the start of the next window on.
    self._entries = np.zeros((offsets, 0, levels), np.uint64)
    self._green = np.zeros((len(keys), offsets, 0, levels), bool)
    self._frames, self._dropped = 0, 0
    self._whole: Float[np.ndarray, "keys"] | None = None
    self._windows: list[Float[np.ndarray, "keys"]] = []

  def push(self, codes: Int[np.ndarray, "offsets frames quantizers"]) -> None:
    """Adds the codes of further frames."""
    codes = np.concatenate([self._context, codes[..., : self._watermark.config.levels]], axis=1)
    self._context = codes[:, max(0, codes.shape[1] - self._watermark.config.frames) :]
    new = np.stack([self._watermark.entries(row) for row in codes])
    green = is_green(self._keys, new.reshape(-1)).reshape(len(self._keys), *new.shape)
    self._frames += new.shape[1]
    self._entries = np.concatenate([self._entries, new], axis=1)
    self._green = np.concatenate([self._green, green], axis=2)
    while self._start(len(self._windows)) + self._length <= self._frames:
      start = self._start(len(self._windows))
      self._windows.append(self._least(start, start + self._length))
    if self._whole is None and self._frames > WHOLE_SECONDS * self._rate:
      self._whole = self._least(0, self._frames)
    if self._whole is not None:
      dropped = self._start(len(self._windows)) - self._dropped
      self._entries, self._green = self._entries[:, dropped:], self._green[:, :, dropped:]
      self._dropped += dropped

  def finish(self) -> Findings:
    """Returns the result."""
    whole = self._least(0, self._frames) if self._whole is None else self._whole
    offsets, count = math.log10(self._offsets), len(self._windows)
    seconds = math.ceil((self._frames + self._context.shape[1]) / self._rate - 1e-6)
    if self._frames <= self._length:
      found = np.minimum(whole + offsets, 0.0)
      return Findings(found, np.tile(found, (seconds, 1)))
    windows = np.stack(self._windows)
    # The clip and its windows share the level of the test equally.
    shares = np.stack([whole, windows.min(axis=0) + math.log10(count)])
    around = np.clip(np.arange(seconds) - round(WINDOW_SECONDS / 2), 0, count - 1)
    return Findings(
      np.minimum(shares.min(axis=0) + offsets + math.log10(2), 0.0),
      np.minimum(windows[around] + offsets, 0.0),
    )

  @property
  def _length(self) -> int:
    """Frames of a window."""
    return round(WINDOW_SECONDS * self._rate)

  def _start(self, window: int) -> int:
    """Returns the first frame of a window; one begins in each second."""
    return round(window * self._rate)

  def _least(self, start: int, end: int) -> Float[np.ndarray, "keys"]:
    """Returns log10 of the least p-value of all offsets, for some frames."""
    part = slice(start - self._dropped, end - self._dropped)
    return np.min(
      [
        log10_p(self._entries[row, part].ravel(), self._green[:, row, part])
        for row in range(self._offsets)
      ],
      axis=0,
    )


def log10_p(
  entries: UInt64[np.ndarray, "entries"], green: Bool[np.ndarray, "keys *entries"]
) -> Float[np.ndarray, "keys"]:
  """Returns log10 of the probability of at least as many green codes, each counted once.

  Args:
    entries: of `Watermark.entries`.
    green: whether they are green under each key.
  """
  _, first = np.unique(entries, return_index=True)
  return log10_tails(len(first))[green.reshape(len(green), -1)[:, first].sum(axis=1)]


@functools.lru_cache(maxsize=256)
def log10_tails(total: int) -> Float[np.ndarray, "counts"]:
  """Returns log10 P(X >= k) for k from 0 to `total`, of a binomial X with probability 1/2."""
  factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, total + 1)))])
  density = factorials[-1] - factorials - factorials[::-1] - total * math.log(2)
  tails = np.logaddexp.accumulate(density[::-1])[::-1]
  return np.minimum(tails / math.log(10), 0.0)
