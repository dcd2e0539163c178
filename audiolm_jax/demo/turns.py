"""The queue of all requests, from the page and from programs."""

import contextlib
import threading
from collections.abc import Iterator

from audiolm_jax.core.errors import UserError


class BusyError(UserError):
  """Raised if too many requests wait."""


class Turns:
  """The running and the waiting requests, in the order of arrival.

  Args:
    concurrency: number of requests that run at a time.
    max_waiting: number of further requests that can wait.
  """

  def __init__(self, concurrency: int, max_waiting: int):
    self._concurrency, self._max_waiting = concurrency, max_waiting
    self._turns: list[Turn] = []
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def joined(self) -> Iterator["Turn"]:
    """Adds a request and yields its turn; the request leaves the queue after the `with` block.

    Raises:
      BusyError: too many requests wait.
    """
    turn = Turn(self)
    with self._lock:
      if len(self._turns) >= self._concurrency + self._max_waiting:
        raise BusyError(f"{self._max_waiting} requests already wait; try again later")
      self._turns.append(turn)
    try:
      yield turn
    finally:
      with self._lock:
        self._turns.remove(turn)

  def ahead_of(self, turn: "Turn") -> int:
    """Returns the number of requests that must end before a request runs; 0 while it runs."""
    with self._lock:
      return max(0, self._turns.index(turn) + 1 - self._concurrency)


class Turn:
  """The place of one request in the queue."""

  def __init__(self, turns: Turns):
    self._turns = turns

  @property
  def ahead(self) -> int:
    """The number of requests that must end before this request runs; 0 while it runs."""
    return self._turns.ahead_of(self)
