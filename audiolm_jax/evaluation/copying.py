"""How much of a sequence of tokens is copied from known sequences."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, UInt64

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers differ


class Copies:
  """Known stretches of a fixed number of tokens.

  Args:
    length: number of tokens of a stretch.
    known: sequences, of each of which all stretches are known. Their hashes of 64 bits are kept.
  """

  def __init__(self, length: int, known: Iterable[Int[np.ndarray, "_steps"]]):
    self.length = length
    hashes = [self._hashes(tokens) for tokens in known]
    self._known = np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)

  def count(
    self, tokens: Int[np.ndarray, " steps"], also: "Copies | None" = None
  ) -> tuple[int, int]:
    """Returns how many stretches of a sequence are known, here or in `also`, and their number."""
    hashes = self._hashes(tokens)
    known = np.isin(hashes, self._known)
    if also is not None:
      known |= np.isin(hashes, also._known)
    return int(known.sum()), len(hashes)

  def _hashes(self, tokens: Int[np.ndarray, " steps"]) -> UInt64[np.ndarray, " stretches"]:
    """Returns a polynomial of each stretch, modulo 2**64."""
    values = np.asarray(tokens).astype(np.uint64) + np.uint64(1)
    total = np.zeros(max(0, len(values) - self.length + 1), np.uint64)
    for place in range(self.length):
      total = total * _FACTOR + values[place : place + len(total)]
    return total
