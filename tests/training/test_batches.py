"""Prefetching keeps the batches, their position and their errors."""

import numpy as np
import pytest

from audiolm_jax.training.batches import Prefetched


class Counting:
  """An iterator over the batches 0, 1, 2, ..., `end` - 1."""

  def __init__(self, end=1000):
    self.at, self.end = 0, end

  def __next__(self):
    if self.at == self.end:
      raise StopIteration
    self.at += 1
    return {"x": np.array(self.at - 1)}

  def get_state(self):
    return {"at": self.at}

  def skip_report(self):
    return ""

  def set_state(self, state):
    self.at = state["at"]


def _take(batches, count):
  return [int(next(batches)["x"]) for _ in range(count)]


def test_prefetched_batches_are_the_same_in_the_same_order():
  assert _take(Prefetched(Counting(), depth=3), 20) == list(range(20))


def test_state_is_that_of_the_last_returned_batch():
  batches = Prefetched(Counting(), depth=4)
  assert batches.get_state() == {"at": 0}
  _take(batches, 5)
  assert batches.get_state() == {"at": 5}
  batches.set_state({"at": 2})
  assert _take(batches, 3) == [2, 3, 4]


def test_closing_loses_no_batches():
  batches = Prefetched(Counting(), depth=4)
  _take(batches, 5)
  batches.close()
  assert _take(batches, 2) == [5, 6]
  batches.close()


def test_the_end_and_errors_reach_the_reader():
  assert [int(b["x"]) for b in Prefetched(Counting(end=3))] == [0, 1, 2]
  broken = Counting()
  broken.set_state({"at": None})
  with pytest.raises(TypeError):
    next(Prefetched(broken))
