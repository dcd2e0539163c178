"""Signals that request the end of a run."""

import signal

import pytest

from audiolm_jax.training.stop_signal import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request_and_the_second_takes_effect(number):
  taken = []
  before = signal.signal(number, lambda *_: taken.append(number))
  try:
    with StopSignal() as stop:
      assert stop.requested(0) == ""
      signal.raise_signal(number)
      assert (stop.requested(1), taken) == (number.name, [])
      signal.raise_signal(number)
      assert taken == [number]
    signal.raise_signal(number)
    assert taken == [number, number]
  finally:
    signal.signal(number, before)
