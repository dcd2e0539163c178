import dataclasses

import numpy as np
import pytest

from audiolm_jax.chunking import Sizes, plan
from tests.chunking.toys import margined, neighbours, running_sum


def sizes_of(sizes, frames):
  """Of the chunks of a model that carries a state and looks at no later frame."""
  model = dataclasses.replace(running_sum().model, sizes=sizes, right=0)
  chunks = list(plan(model, frames))
  starts, found = [c.start for c in chunks], [c.size for c in chunks]
  assert starts == [0, *np.cumsum(found[:-1])][: len(found)]
  assert sum(c.keep_to - c.keep_from for c in chunks) == frames
  return found


@pytest.mark.parametrize(
  ("frames", "lengths"),
  [(0, []), (1, [5]), (5, [5]), (6, [10]), (50, [50]), (51, [50, 5]), (113, [50, 50, 15])],
)
def test_in_steps_what_is_left_goes_in_one_chunk(frames, lengths):
  assert sizes_of(Sizes.in_steps(50, 5), frames) == lengths


@pytest.mark.parametrize(
  ("frames", "lengths"), [(0, []), (1, [10]), (49, [10] * 5), (50, [50]), (112, [50, 50, 10, 10])]
)
def test_of_two_what_is_left_goes_in_small_chunks(frames, lengths):
  assert sizes_of(Sizes.of_two(50, 10), frames) == lengths


@pytest.mark.parametrize("toy", [neighbours, margined])
@pytest.mark.parametrize("frames", [1, 4, 5, 16, 17, 100])
def test_every_frame_is_kept_once_with_its_reach_inside_the_chunk(toy, frames):
  model, done = toy().model, 0
  for chunk in plan(model, frames):
    assert chunk.start + chunk.keep_from == done
    assert chunk.start == 0 or chunk.keep_from >= model.left
    assert chunk.start + chunk.size >= frames or chunk.keep_to + model.right <= chunk.size
    done = chunk.start + chunk.keep_to
    assert done == chunk.done and chunk.size <= 16
  assert done == frames


@pytest.mark.parametrize("frames", [1, 3, 4, 15, 16, 17, 100])
def test_results_that_come_late_are_all_kept_once(frames):
  chunks = list(plan(running_sum().model, frames))
  kept = [c.start - 1 + i for c in chunks for i in range(c.keep_from, c.keep_to)]
  assert kept == list(range(frames))
  assert [c.start for c in chunks] == list(range(0, frames + 1, 16))


def test_chunks_of_a_long_clip_are_alike_if_they_are_pooled_and_of_few_sizes_if_not():
  assert {chunk.size for chunk in plan(margined().model, 17)} == {16}
  assert [chunk.size for chunk in plan(neighbours().model, 17)] == [16, 8]


def test_a_part_of_a_clip_is_planned_by_the_inputs_it_has():
  chunks = list(plan(neighbours().model, 20, done=10, until=18))
  assert [tuple(chunk) for chunk in chunks] == [(7, 16, 3, 11, 18)]
  assert not list(plan(neighbours().model, 2, until=0))
