"""Runs a model on inputs that arrive in pieces of any length."""

import numpy as np
from jaxtyping import PyTree, Shaped

from audiolm_jax.chunking.model import ChunkedModel
from audiolm_jax.chunking.plan import plan


class ChunkStream:
  """Maps inputs to results, piece by piece, for clips of equal length.

  If the model carries a state, a chunk contains received inputs only, without padding before the
  end of the clips. Chunks have few sizes, so that few programs are compiled for pieces of any
  length.
  """

  def __init__(self, model: ChunkedModel, batch: int = 1):
    """Starts a stream of new clips.

    Args:
      model: the model to run.
      batch: number of clips.
    """
    self._model, self._batch = model, batch
    self._state: PyTree = model.start_state(batch)
    self._kept: np.ndarray | None = None  # the inputs that later results depend on
    self._dropped = 0  # number of inputs before `_kept`
    self._done: int | None = None

  def push(self, inputs: Shaped[np.ndarray, "batch _ ..."]) -> Shaped[np.ndarray, "batch _ ..."]:
    """Receives the next inputs and returns all new results that later inputs cannot change."""
    inputs = np.asarray(inputs, self._model.dtype)
    self._kept = inputs if self._kept is None else np.concatenate([self._kept, inputs], axis=1)
    known = (self._dropped + self._kept.shape[1] - self._model.margins[1]) // self._model.unit
    until = known - self._model.right if known >= self._model.first else 0
    return self._results(self._kept, known, until)

  def flush(self) -> Shaped[np.ndarray, "batch _ ..."]:
    """Returns the remaining results and ends the clips."""
    if self._kept is None:
      return self._joined([])
    frames = self._model.num_frames(self._dropped + self._kept.shape[1])
    return self._results(self._kept, frames, frames)

  def _results(self, kept: np.ndarray, frames: int, until: int) -> np.ndarray:
    model, known = self._model, self._dropped + kept.shape[1]
    size = model.exact_size if model.carried else model.size
    pieces = []
    for chunk in plan(model, frames, self._done, until, size):
      ends = np.full(self._batch, known - chunk.start * model.unit, np.int32)
      inputs = [model.cut(clip, chunk.start, chunk.size, self._dropped) for clip in kept]
      results, self._state = model.step(np.stack(inputs), ends, self._state)
      each = results.shape[1] // chunk.size
      pieces.append(np.asarray(results)[:, chunk.keep_from * each : chunk.keep_to * each])
      self._done = chunk.done
    if self._done is not None:
      needed = model.start(self._done) * model.unit - model.margins[0]
      self._kept = kept[:, max(0, needed - self._dropped) :]
      self._dropped = known - self._kept.shape[1]
    return self._joined(pieces)

  def _joined(self, pieces: list[np.ndarray]) -> np.ndarray:
    nothing = self._model.nothing
    none = np.zeros((self._batch, *nothing.shape), nothing.dtype)
    return np.concatenate([none, *pieces], axis=1)
