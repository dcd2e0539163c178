"""Causal codecs in blocks of frames: bounded memory, few programs, the state carried between."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# Frames that go through at a time.
BLOCK = 250


def plan_blocks(frames: int, block: int = BLOCK) -> Iterator[tuple[int, int]]:
  """Start and length of the blocks that cover `frames`; the last may reach beyond.

  What is left of long blocks is filled up to short ones, a fifth as long: few lengths, so that few
  programs are compiled, and little waste.
  """
  start = 0
  while start < frames:
    length = block if frames - start >= block else block // 5
    yield start, length
    start += length


def plan_fitted_blocks(frames: int, block: int) -> Iterator[tuple[int, int]]:
  """The same, but what is left goes in one, of as many tenths of a long block as it needs.

  Up to ten programs, and fewer pieces: for models large enough that running them costs more than
  compiling.
  """
  tenth = block // 10
  for start in range(0, frames, block):
    yield start, min(block, -(-(frames - start) // tenth) * tenth)


def exact_blocks(frames: int, block: int = BLOCK) -> Iterator[tuple[int, int]]:
  """The same without reaching beyond: long blocks, then powers of two."""
  start = 0
  while start < frames:
    left = frames - start
    length = block if left >= block else 1 << (left.bit_length() - 1)
    yield start, length
    start += length


def initial_state(make: Callable[[Any, int], Any], config: Any, batch: int) -> Any:
  """A zero state without a small program compiled for each of its arrays."""
  shapes = jax.eval_shape(functools.partial(make, config, batch))
  return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
