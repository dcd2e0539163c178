"""Runs a model over clips of unequal lengths, several at a time."""

import collections
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Shaped

from audiolm_jax.chunking.model import ChunkedModel, Sliced
from audiolm_jax.chunking.plan import Chunk, plan

# Chunks of one size that form a batch, each with the index of its clip.
Batch = list[tuple[int, Chunk]]
T = TypeVar("T")
_FAR = 2**31 - 1  # limit of `ends`, because they are int32


def run(
  model: ChunkedModel,
  clips: Sequence[Shaped[np.ndarray, "_ ..."] | Sliced],
  batch_size: int,
  frames: Sequence[int] | None = None,
) -> list[Shaped[np.ndarray, "_ ..."]]:
  """Returns the results of each clip.

  A run with each clip alone returns equal results except for rounding: matrix products of different
  shapes round differently. Chunks that do not fill a batch run one by one, so that every size is
  compiled for at most two batch sizes.

  Args:
    model: the model to run.
    clips: the inputs of each clip; they are sliced in increasing order.
    batch_size: number of chunks per batch.
    frames: number of frames of each clip; `model.num_frames` of its inputs by default.
  """
  clips = [np.asarray(clip) if isinstance(clip, jax.Array) else clip for clip in clips]
  frames = frames or [model.num_frames(len(clip)) for clip in clips]
  pieces: list[list[np.ndarray]] = [[model.nothing] for _ in clips]
  state, each = None, 1
  for batch in (_pooled if model.pooled else _in_step)(model, frames, batch_size):
    start, size = batch[0][1][:2]
    if not start:
      state = model.start_state(len(batch))
    inputs = np.stack([model.cut(clips[clip], chunk.start, size) for clip, chunk in batch])
    ends = [min(len(clips[clip]) - chunk.start * model.unit, _FAR) for clip, chunk in batch]
    results, state = model.step(inputs, np.array(ends, np.int32), state)
    each = results.shape[1] // size
    for row, (clip, chunk) in zip(np.asarray(results), batch, strict=True):
      pieces[clip].append(row[chunk.keep_from * each : chunk.keep_to * each])
  # A clip that is shorter than the longest of its batch has results after its end.
  return [np.concatenate(p)[: count * each] for p, count in zip(pieces, frames, strict=True)]


def rows_of(
  results: Sequence[Shaped[np.ndarray, "_ ..."]], nothing: Shaped[np.ndarray, "0 ..."], length: int
) -> Shaped[np.ndarray, "batch length ..."]:
  """Returns results of unequal lengths as rows of one length, padded with zeros.

  Args:
    results: the results of each clip.
    nothing: the results of a clip without frames.
    length: number of results per row.
  """
  rows = np.zeros((len(results), length, *nothing.shape[1:]), nothing.dtype)
  for row, result in zip(rows, results, strict=True):
    row[: len(result)] = result
  return rows


def clips_of(
  rows: Shaped[np.ndarray, "batch length ..."], lengths: Sequence[int] | np.ndarray | None
) -> list[Shaped[np.ndarray, "_ ..."]]:
  """Returns the first `lengths` elements of each row, or whole rows if `lengths` is None."""
  return list(rows) if lengths is None else [row[:n] for row, n in zip(rows, lengths, strict=True)]


def _in_step(model: ChunkedModel, frames: Sequence[int], batch_size: int) -> Iterator[Batch]:
  """Yields batches of chunks from clips of similar length, all cut like the longest clip."""
  order = sorted(range(len(frames)), key=lambda clip: frames[clip])
  for clips in _batches(order, batch_size):
    for chunk in plan(model, frames[clips[-1]]):
      yield [(clip, chunk) for clip in clips]


def _pooled(model: ChunkedModel, frames: Sequence[int], batch_size: int) -> Iterator[Batch]:
  """Yields batches of equally large chunks; every clip is cut as if it were alone."""
  by_size: dict[int, Batch] = collections.defaultdict(list)
  for clip, count in enumerate(frames):
    for chunk in plan(model, count):
      by_size[chunk.size].append((clip, chunk))
  for chunks in by_size.values():
    yield from _batches(chunks, batch_size)


def _batches(items: list[T], batch_size: int) -> Iterator[list[T]]:
  """Yields batches of `batch_size` items, then the remaining items one by one."""
  whole = len(items) // batch_size * batch_size
  for first in range(0, whole, batch_size):
    yield items[first : first + batch_size]
  yield from ([item] for item in items[whole:])
