"""Counts the stretches of a token sequence that are copied from known sequences."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, UInt64

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers differ


class Copies:
  """A set of known stretches: sequences of a fixed number of consecutive tokens.

  Args:
    length: number of tokens in a stretch.
    known: token sequences; all of their stretches are known. Only 64-bit hashes are stored.
  """

  def __init__(self, length: int, known: Iterable[Int[np.ndarray, "_steps"]]):
    self.length = length
    hashes = [self._hashes(tokens) for tokens in known]
    self._known = np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)

  def count(
    self, tokens: Int[np.ndarray, " steps"], also: "Copies | None" = None
  ) -> tuple[int, int]:
    """Returns the number of known stretches in a sequence, and the number of all its stretches.

    Args:
      tokens: the sequence.
      also: a second set of known stretches, with an equal `length`; None for no second set.
    """
    hashes = self._hashes(tokens)
    known = np.isin(hashes, self._known)
    if also is not None:
      known |= np.isin(hashes, also._known)
    return int(known.sum()), len(hashes)

  def _hashes(self, tokens: Int[np.ndarray, " steps"]) -> UInt64[np.ndarray, " stretches"]:
    """Returns a polynomial hash of each stretch, modulo 2**64."""
    values = np.asarray(tokens).astype(np.uint64) + np.uint64(1)
    total = np.zeros(max(0, len(values) - self.length + 1), np.uint64)
    for place in range(self.length):
      total = total * _FACTOR + values[place : place + len(total)]
    return total
