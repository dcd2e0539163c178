"""Cuts long recordings at quiet moments into pieces, so that a stage can read each piece."""

import numpy as np
from jaxtyping import Float, Int


def pieces(
  waveform: Float[np.ndarray, "samples"], semantic: Int[np.ndarray, "steps"], longest: int
) -> list[Int[np.ndarray, "_"]]:
  """Returns the semantic tokens of a recording, cut so that no piece exceeds `longest` steps.

  Args:
    waveform: the recording.
    semantic: semantic tokens of the recording, with repeats.
    longest: maximum number of semantic tokens (steps) per piece.
  """
  return np.split(semantic, cuts(loudness(waveform, len(semantic)), longest))


def loudness(waveform: Float[np.ndarray, "samples"], steps: int) -> Float[np.ndarray, "steps"]:
  """Returns the root mean square of the samples in each of `steps` equal parts of a recording."""
  edges = np.linspace(0, len(waveform), steps + 1).astype(np.int64)
  squares = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
  return np.sqrt(np.diff(squares[edges]) / np.maximum(1, np.diff(edges)))


def cuts(levels: Float[np.ndarray, "steps"], longest: int) -> list[int]:
  """Returns the steps at which to cut a recording so that no part exceeds `longest` steps.

  Each part except the last has `longest // 2` to `longest` steps, but at least 1. It ends before
  the quietest step that allows such a length.

  Args:
    levels: root mean square of each step.
    longest: maximum number of steps per part.
  """
  found: list[int] = []
  start = 0
  while len(levels) - start > longest:
    first = start + max(1, longest // 2)
    start = first + int(np.argmin(levels[first : start + longest + 1]))
    found.append(start)
  return found
