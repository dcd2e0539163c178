"""Cuts a long clip into windows."""

import math
from typing import NamedTuple


class Window(NamedTuple):
  """Frames `start .. known - 1` are given; `known .. end - 1` are sampled."""

  start: int
  known: int
  end: int


def next_window(known: int, total: int | None, crop: int, overlap: int, align: int = 1) -> Window:
  """Returns the window after `known` frames of `total`, which is None if it is not known.

  It has at most `crop` frames and overlaps `overlap` of the known frames, or more if this requires
  no additional window; its start is a multiple of `align`.

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
  """Returns the steps of a stream of `rate` that cover frames `start .. end - 1`."""
  ratio = rate / frame_rate
  return slice(math.floor(start * ratio + 1e-6), math.ceil(end * ratio - 1e-6))


def steps_until(seconds: float, rate: float) -> int:
  """Returns the number of steps that cover the time until `seconds`."""
  return math.ceil(seconds * rate - 1e-6)
