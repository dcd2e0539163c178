"""Splits audio into windows of one second at a hop of a quarter of a second."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.arrays import Array
from audiolm_jax.io import audio

WINDOW_SECONDS = 1.0
HOP_SECONDS = 0.25
LEAST_SECONDS = 0.1
BATCH = 32
_SILENT = 1e-3  # a window with a lower peak (-60 dB) is ignored


class WaveformWindow(NamedTuple):
  """A window of a clip.

  Attributes:
    number: index of the window in the clip.
    start: index of the window's first sample in the clip.
    waveform: the samples of the window.
  """

  number: int
  start: int
  waveform: Float[np.ndarray, "window"]

  @property
  def is_silent(self) -> bool:
    """Whether the peak of the waveform is below -60 dB relative to full scale."""
    return bool(np.max(np.abs(self.waveform)) < _SILENT)


def windows(
  blocks: Iterable[Float[np.ndarray, "_block"]], rate: int, name: str
) -> Iterator[WaveformWindow]:
  """Yields a window at every hop, and a last window that ends with the audio.

  Audio shorter than a window is padded with its reflection to one window.

  Args:
    blocks: the audio in blocks of any length.
    rate: sample rate in Hz.
    name: name of the audio in error messages.

  Raises:
    AudioError: the audio is shorter than 0.1 s.
  """
  window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
  kept, start = np.zeros(0, np.float32), 0  # samples still needed, and the index of the first
  following = 0  # first sample of the next window
  for block in blocks:
    kept = np.concatenate([kept, block])
    end = start + len(kept)
    while following + window <= end:
      first = following - start
      yield WaveformWindow(following // hop, following, kept[first : first + window])
      following += hop
    dropped = max(0, min(following, end - window) - start)
    kept, start = kept[dropped:], start + dropped
  end = start + len(kept)
  if end < window:
    audio.check_length(end, rate, LEAST_SECONDS, name)
    yield WaveformWindow(0, 0, np.pad(kept, (0, window - end), mode="symmetric"))
  elif following - hop + window < end:
    yield WaveformWindow(following // hop, end - window, kept[-window:])


def in_batches(
  run: Callable[[np.ndarray], Array], rows: Float[np.ndarray, "windows samples"]
) -> np.ndarray:
  """Returns the results of `run` for one or more rows.

  Every batch is padded to `BATCH` rows, so that only one program is compiled.
  """
  results = []
  for first in range(0, len(rows), BATCH):
    batch = rows[first : first + BATCH]
    padded = np.pad(batch, ((0, BATCH - len(batch)), (0, 0)))
    results.append(np.asarray(run(padded))[: len(batch)])
  return np.concatenate(results)
