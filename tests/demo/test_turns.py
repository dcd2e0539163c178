"""Requests run in the order in which they came, and a full queue refuses."""

import contextlib

import pytest

from audiolm_jax.demo.turns import BusyError, Turns


def test_requests_run_in_the_order_of_arrival():
  turns = Turns(concurrency=2, max_waiting=2)
  stacks = [contextlib.ExitStack() for _ in range(4)]
  taken = [stack.enter_context(turns.joined()) for stack in stacks]
  assert [turn.ahead for turn in taken] == [0, 0, 1, 2]
  stacks[1].close()
  assert [taken[i].ahead for i in (0, 2, 3)] == [0, 0, 1]
  stacks[2].close()
  assert [taken[i].ahead for i in (0, 3)] == [0, 0]


def test_a_full_queue_refuses_until_a_request_leaves_it():
  turns = Turns(concurrency=1, max_waiting=1)
  with turns.joined():
    with (
      turns.joined(),
      pytest.raises(BusyError, match="1 requests already wait; try again later"),
      turns.joined(),
    ):
      pass
    with turns.joined() as turn:
      assert turn.ahead == 1


def test_a_request_that_fails_leaves_the_queue():
  turns = Turns(concurrency=1, max_waiting=0)
  with pytest.raises(KeyError), turns.joined():
    raise KeyError
  with turns.joined() as turn:
    assert turn.ahead == 0
