"""Causal codecs in blocks of frames: bounded memory, few programs, the state carried between."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# Frames that go through at a time: of what is long, and of what is left of it, filled up with
# zeros. Few lengths, so that few programs are compiled; the short one wastes little.
BLOCK, _REST = 250, 50


def plan_blocks(frames: int) -> Iterator[tuple[int, int]]:
  """Start and length of the blocks that cover `frames`; the last may reach beyond."""
  start = 0
  while start < frames:
    length = BLOCK if frames - start >= BLOCK else _REST
    yield start, length
    start += length


def exact_blocks(frames: int) -> Iterator[tuple[int, int]]:
  """The same without reaching beyond: long blocks, then powers of two."""
  start = 0
  while start < frames:
    left = frames - start
    length = BLOCK if left >= BLOCK else 1 << (left.bit_length() - 1)
    yield start, length
    start += length


def initial_state(make: Callable[[Any, int], Any], config: Any, batch: int) -> Any:
  """A zero state without a small program compiled for each of its arrays."""
  shapes = jax.eval_shape(functools.partial(make, config, batch))
  return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
