"""Iterators over training batches, with a position that can be saved, and prefetching."""

import queue
import threading
from typing import Protocol, runtime_checkable

from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.modules import Batch


@runtime_checkable
class Batches(Protocol):
  """An iterator over batches whose position can be saved and restored."""

  def __next__(self) -> Batch: ...

  def get_state(self) -> JsonDict:
    """Returns the position, as JSON values."""
    ...

  def set_state(self, state: JsonDict) -> None:
    """Moves to a position that `get_state` returned."""
    ...

  def skip_report(self) -> str:
    """Returns one line about the clips that were skipped so far; "" if no clip was skipped."""
    ...


class Prefetched:
  """Prefetches batches of `batches` in a thread, which fills a queue of `depth` batches.

  `get_state` returns the position after the last batch that `__next__` returned. Batches that were
  prefetched, but not returned, do not change this position.
  """

  def __init__(self, batches: Batches, depth: int = 2):
    self._batches = batches
    self._depth = depth
    self._thread: threading.Thread | None = None
    self._state = batches.get_state()

  def __iter__(self) -> "Prefetched":
    return self

  def __next__(self) -> Batch:
    if self._thread is None:
      self._start()
    batch, state, error = self._queue.get()
    if error is not None:
      self._thread = None
      raise error
    self._state = state
    return batch

  def get_state(self) -> JsonDict:
    """Returns the position after the last batch that `__next__` returned."""
    return self._state

  def set_state(self, state: JsonDict) -> None:
    """Moves to a position that `get_state` returned and discards prefetched batches."""
    self.close()
    self._batches.set_state(state)
    self._state = state

  def skip_report(self) -> str:
    """Returns one line about the clips skipped so far, also in prefetched batches; "" if none."""
    return self._batches.skip_report()

  def close(self) -> None:
    """Stops the thread; the next `__next__` starts a new thread at the position of `get_state`."""
    if self._thread is not None:
      self._stop.set()
      self._thread.join()
      self._thread = None
      self._batches.set_state(self._state)

  def _start(self) -> None:
    self._stop = threading.Event()
    self._queue: queue.Queue = queue.Queue(self._depth)
    arguments = (self._batches, self._queue, self._stop)
    self._thread = threading.Thread(target=_fill, args=arguments, daemon=True)
    self._thread.start()


def _fill(batches: Batches, filled: queue.Queue, stop: threading.Event) -> None:
  while not stop.is_set():
    try:
      item = (next(batches), batches.get_state(), None)
    except BaseException as error:  # `__next__` raises the error
      item = (None, None, error)
    while not stop.is_set():
      try:
        filled.put(item, timeout=0.1)
        break
      except queue.Full:
        continue
    if item[2] is not None:
      return
