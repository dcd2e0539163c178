"""How a long clip is cut into windows."""

import math
from typing import NamedTuple

from audiolm_jax.lm.stages import StageSpec


class Window(NamedTuple):
  """Frames `start .. known - 1` are given, `known .. end - 1` are sampled."""

  start: int
  known: int
  end: int


def plan_windows(
  known: int, total: int, crop: int, overlap: int, align: int = 1
) -> tuple[Window, ...]:
  """Windows of at most `crop` frames that lead from `known` frames to `total`.

  Each sees `overlap` frames of what is there, or more where that costs no further window; starts
  are multiples of `align`.

  >>> plan_windows(150, 1000, crop=500, overlap=150)
  (Window(start=0, known=150, end=500), Window(start=350, known=500, end=850),
   Window(start=500, known=850, end=1000))
  """
  windows = []
  while known < total:
    latest_start = max(0, known - overlap) // align * align
    end = min(total, latest_start + crop)
    start = -(-max(0, end - crop) // align) * align
    windows.append(Window(start, known, end))
    known = end
  return tuple(windows)


def steps_of_frames(spec: StageSpec, start: int, end: int) -> slice:
  """The semantic steps that cover frames `start .. end - 1`."""
  ratio = spec.semantic_rate / spec.frame_rate
  return slice(math.floor(start * ratio + 1e-6), math.ceil(end * ratio - 1e-6))
