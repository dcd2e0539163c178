"""Batches made ahead of time in a thread, without losing the exact position."""

import queue
import threading
from typing import Any, Protocol

from audiolm_jax.data.examples import Example


class Batches(Protocol):
  """What the trainer reads from; `skip_report` is a line on clips left out so far, "" for none."""

  def __next__(self) -> Example: ...

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, state: dict[str, Any]) -> None: ...

  def skip_report(self) -> str: ...


class Prefetched:
  """The same batches as `batches`, up to `depth` of them made ahead.

  `get_state` is the position after the batch last handed out, not after the last one made.
  """

  def __init__(self, batches: Batches, depth: int = 2):
    self._batches = batches
    self._depth = depth
    self._thread: threading.Thread | None = None
    self._state = batches.get_state()

  def __iter__(self) -> "Prefetched":
    return self

  def __next__(self) -> Example:
    if self._thread is None:
      self._start()
    batch, state, error = self._queue.get()
    if error is not None:
      self._thread = None
      raise error
    self._state = state
    return batch

  def get_state(self) -> dict[str, Any]:
    """The position after the last batch handed out."""
    return self._state

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position of `get_state`; batches made ahead are dropped."""
    self.close()
    self._batches.set_state(state)
    self._state = state

  def skip_report(self) -> str:
    """The clips left out so far, those of batches made ahead among them; "" for none."""
    return self._batches.skip_report()

  def close(self) -> None:
    """Ends the thread; the next batch starts another at the position of `get_state`."""
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
    except BaseException as error:  # handed to the reader, whose error it is
      item = (None, None, error)
    while not stop.is_set():
      try:
        filled.put(item, timeout=0.1)
        break
      except queue.Full:
        continue
    if item[2] is not None:
      return
