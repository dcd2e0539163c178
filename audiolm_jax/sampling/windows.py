"""Cuts a long clip into windows."""

import math
from typing import NamedTuple


class Window(NamedTuple):
  """Frames `start .. known - 1` are given; `known .. end - 1` are sampled."""

  start: int
  known: int
  end: int


def next_window(known: int, total: int | None, crop: int, overlap: int, align: int = 1) -> Window:
  """Returns the next window of a clip whose first frames are known.

  Args:
    known: number of known frames.
    total: number of frames of the clip; None if unknown.
    crop: maximum number of frames of the window.
    overlap: minimum number of known frames in the window, if enough frames are known. The last
      window of a clip contains more known frames, so that it has `crop` frames if possible.
    align: number of frames; the window begins at one of its multiples.

  >>> next_window(150, 1000, crop=500, overlap=150)
  Window(start=0, known=150, end=500)
  >>> next_window(500, 1000, crop=500, overlap=150)
  Window(start=350, known=500, end=850)
  """
  latest_start = max(0, known - overlap) // align * align
  end = latest_start + crop if total is None else min(total, latest_start + crop)
  start = -(-max(0, end - crop) // align) * align
  return Window(start, known, end)


def steps_of_frames(start: int, end: int, frame_rate: float, rate: float) -> slice:
  """Returns the steps, at `rate` per second, that cover the frames `start .. end - 1`."""
  ratio = rate / frame_rate
  return slice(math.floor(start * ratio + 1e-6), math.ceil(end * ratio - 1e-6))


def steps_until(seconds: float, rate: float) -> int:
  """Returns the number of steps, at `rate` per second, that cover the time from 0 to `seconds`."""
  return math.ceil(seconds * rate - 1e-6)
