"""Sound in windows of a second, four of which begin in each second."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.io import audio

WINDOW_SECONDS = 1.0
HOP_SECONDS = 0.25
LEAST_SECONDS = 0.1
BATCH = 32
_SILENT = 1e-3  # a window whose peak is below -60 dB says nothing


class Window(NamedTuple):
  """One window: which one, where it starts in samples, and its sound."""

  number: int
  start: int
  waveform: Float[np.ndarray, "window"]

  @property
  def is_silent(self) -> bool:
    """Whether nothing can be heard in it."""
    return bool(np.max(np.abs(self.waveform)) < _SILENT)


def windows(blocks: Iterable[Float[np.ndarray, "block"]], rate: int, name: str) -> Iterator[Window]:
  """Windows at every hop, and one at the very end; of a shorter sound one, mirrored at its ends.

  Args:
    blocks: the sound in pieces of any length, at `rate` Hz.
    name: of the sound, for messages.
  Raises:
    AudioError: it lasts less than a tenth of a second.
  """
  window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
  kept, start = np.zeros(0, np.float32), 0  # what is still needed begins at sample `start`
  following = 0  # where the next window begins
  for block in blocks:
    kept = np.concatenate([kept, block])
    end = start + len(kept)
    while following + window <= end:
      first = following - start
      yield Window(following // hop, following, kept[first : first + window])
      following += hop
    dropped = max(0, min(following, end - window) - start)
    kept, start = kept[dropped:], start + dropped
  end = start + len(kept)
  if end < window:
    audio.check_length(end, rate, LEAST_SECONDS, name)
    yield Window(0, 0, np.pad(kept, (0, window - end), mode="symmetric"))
  elif following - hop + window < end:
    yield Window(following // hop, end - window, kept[-window:])


def in_batches(
  run: Callable[[np.ndarray], Any], rows: Float[np.ndarray, "windows samples"]
) -> np.ndarray:
  """What `run` gives for every row of at least one, by batches of one size: one program for all."""
  found = []
  for first in range(0, len(rows), BATCH):
    batch = rows[first : first + BATCH]
    filled = np.pad(batch, ((0, BATCH - len(batch)), (0, 0)))
    found.append(np.asarray(run(filled))[: len(batch)])
  return np.concatenate(found)
