"""Requests of the operating system or the user that a run saves and ends."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

import jax
from jax.experimental import multihost_utils

Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignal:
  """A context in which SIGTERM and the first Ctrl-C request that the run saves and ends."""

  def __init__(self) -> None:
    self._name = ""
    self._before: dict[int, Handler] = {}

  def __enter__(self) -> "StopSignal":
    if threading.current_thread() is not threading.main_thread():
      return self
    # With several processes, JAX handles the SIGTERM of any of them and notifies all.
    several = jax.process_count() > 1
    for number in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._forward if several else self._record)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def requested(self, step: int) -> str:
    """Returns the cause of a request to end, or ""; all processes agree on the step."""
    if jax.process_count() > 1:
      return "preemption notice" if multihost_utils.reached_preemption_sync_point(step) else ""
    return self._name

  def _record(self, number: int, frame: FrameType | None) -> None:
    self._name = signal.Signals(number).name
    signal.signal(number, self._before[number])  # a second signal takes effect immediately

  def _forward(self, number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.signal(number, self._before[number])
