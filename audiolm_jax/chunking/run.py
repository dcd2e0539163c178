"""Clips of unequal lengths through a model, several at a time."""

import collections
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped

from audiolm_jax.chunking.model import ChunkedModel
from audiolm_jax.chunking.plan import Chunk, plan

# The chunks of one size that go through the model together, each with the number of its clip.
Batch = list[tuple[int, Chunk]]
T = TypeVar("T")


def run(
  model: ChunkedModel,
  clips: Sequence[Shaped[np.ndarray, "_ ..."]],
  batch_size: int,
  frames: Sequence[int] | None = None,
) -> list[Shaped[np.ndarray, "_ ..."]]:
  """The results of each clip.

  Alone and together differ only by the rounding of products of other shapes. What does not fill a
  batch goes one by one, so that every size is compiled for two batch sizes at most.

  Args:
    clips: the inputs of each.
    batch_size: chunks that go side by side.
    frames: of each clip, if its inputs do not say; by default `model.num_frames` of them.
  """
  clips = [np.asarray(clip) for clip in clips]
  frames = frames or [model.num_frames(len(clip)) for clip in clips]
  pieces: list[list[np.ndarray]] = [[model.nothing] for _ in clips]
  state, each = None, 1
  for batch in (_pooled if model.pooled else _in_step)(model, frames, batch_size):
    start, size = batch[0][1][:2]
    if not start:
      state = model.start_state(len(batch))
    inputs = np.stack([model.cut(clips[clip], chunk.start, size) for clip, chunk in batch])
    ends = [len(clips[clip]) - chunk.start * model.unit for clip, chunk in batch]
    results, state = model.step(inputs, np.array(ends, np.int32), state)
    each = results.shape[1] // size
    for row, (clip, chunk) in zip(np.asarray(results), batch, strict=True):
      pieces[clip].append(row[chunk.keep_from * each : chunk.keep_to * each])
  # A clip beside a longer one has results behind its end.
  return [np.concatenate(p)[: count * each] for p, count in zip(pieces, frames, strict=True)]


def rows_of(
  results: Sequence[Shaped[np.ndarray, "_ ..."]], nothing: Shaped[np.ndarray, "0 ..."], length: int
) -> Shaped[np.ndarray, "batch length ..."]:
  """Results of unequal lengths as rows of one length, 0 past the end of each.

  Args:
    nothing: results of no frame.
  """
  rows = np.zeros((len(results), length, *nothing.shape[1:]), nothing.dtype)
  for row, result in zip(rows, results, strict=True):
    row[: len(result)] = result
  return rows


def clips_of(
  rows: Shaped[np.ndarray, "batch length ..."], lengths: Sequence[int] | np.ndarray | None
) -> list[Shaped[np.ndarray, "_ ..."]]:
  """The first `lengths` of each row; all of it without them."""
  return list(rows) if lengths is None else [row[:n] for row, n in zip(rows, lengths, strict=True)]


def _in_step(model: ChunkedModel, frames: Sequence[int], batch_size: int) -> Iterator[Batch]:
  """Clips of like length side by side, all cut as the longest of them."""
  order = sorted(range(len(frames)), key=lambda clip: frames[clip])
  for clips in _batches(order, batch_size):
    for chunk in plan(model, frames[clips[-1]]):
      yield [(clip, chunk) for clip in clips]


def _pooled(model: ChunkedModel, frames: Sequence[int], batch_size: int) -> Iterator[Batch]:
  """Chunks of one size side by side, every clip cut by itself."""
  by_size: dict[int, Batch] = collections.defaultdict(list)
  for clip, count in enumerate(frames):
    for chunk in plan(model, count):
      by_size[chunk.size].append((clip, chunk))
  for chunks in by_size.values():
    yield from _batches(chunks, batch_size)


def _batches(items: list[T], batch_size: int) -> Iterator[list[T]]:
  """Batches of that many, then what is left, one by one."""
  whole = len(items) // batch_size * batch_size
  for first in range(0, whole, batch_size):
    yield items[first : first + batch_size]
  yield from ([item] for item in items[whole:])
