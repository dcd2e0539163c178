"""Handles requests of the operating system or the user to save a run and end it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

import jax
from jax.experimental import multihost_utils

# A signal handler, as returned by `signal.signal`.
Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignal:
  """A context in which SIGTERM or Ctrl-C is recorded as a request to save and end the run.

  If the same signal arrives again, it is not recorded, but has its usual effect. Outside of the
  main thread, the context records no signals.
  """

  def __init__(self) -> None:
    self._name = ""
    self._before: dict[int, Handler] = {}

  def __enter__(self) -> "StopSignal":
    if threading.current_thread() is not threading.main_thread():
      return self
    # With several processes, JAX handles a SIGTERM to any process and notifies all processes.
    several = jax.process_count() > 1
    for number in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._forward if several else self._record)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def requested(self, step: int) -> str:
    """Returns the cause of a request to end, such as "SIGTERM"; "" if there is no request.

    With several processes, all processes return the cause at the same step.

    Args:
      step: number of completed steps.
    """
    if jax.process_count() > 1:
      return "preemption notice" if multihost_utils.reached_preemption_sync_point(step) else ""
    return self._name

  def _record(self, number: int, frame: FrameType | None) -> None:
    self._name = signal.Signals(number).name
    signal.signal(number, self._before[number])  # a second signal takes effect immediately

  def _forward(self, number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.signal(number, self._before[number])
