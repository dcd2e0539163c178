"""Arrays that are computed block by block and read in slices."""

import collections
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Shaped
from numpy.typing import DTypeLike


class SlicedBlocks:
  """An array that is computed block by block while its slices are read.

  Only the blocks of the current slice are in memory. Slices may overlap, but should be read in
  increasing order. A slice that begins before the blocks in memory restarts the computation at the
  first block.

  Args:
    blocks: returns the consecutive blocks of the array, from the first block.
    shape: shape of the whole array.
  """

  def __init__(
    self, blocks: Callable[[], Iterable[Shaped[np.ndarray, "_ ..."]]], shape: tuple[int, ...]
  ):
    self.shape = shape
    self._make = blocks
    self._restart()

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
    return self[:].astype(dtype or np.float32)

  def __getitem__(self, part: slice) -> Shaped[np.ndarray, "part ..."]:
    first, last, _ = part.indices(len(self))
    if first < self._first:
      self._restart()
    while self._last < last:
      block = next(self._blocks)
      self._kept.append(block)
      self._last += len(block)
      while len(self._kept) > 1 and self._first + len(self._kept[0]) <= first:
        self._first += len(self._kept.popleft())
    whole = np.concatenate([np.zeros((0, *self.shape[1:]), np.float32), *self._kept])
    return whole[first - self._first : max(first, last) - self._first]

  def _restart(self) -> None:
    self._first = self._last = 0  # the section of the array that is in memory
    self._kept: collections.deque[np.ndarray] = collections.deque()
    self._blocks: Iterator[np.ndarray] = iter(self._make())
