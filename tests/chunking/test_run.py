import numpy as np
import pytest

from audiolm_jax.chunking import clips_of, rows_of, run
from tests.chunking.toys import TOYS, UNIT, clip, margined, neighbours, running_sum

LENGTHS = (70 * UNIT, 1, 17 * UNIT, 33, 0, 16 * UNIT, 90)


@pytest.mark.parametrize("make", TOYS)
@pytest.mark.parametrize("batch_size", [1, 2, 4, 10])
def test_every_clip_gets_its_own_results_however_many_go_together(make, batch_size):
  toy = make()
  clips = [clip(length, seed) for seed, length in enumerate(LENGTHS)]
  results = run(toy.model, clips, batch_size)
  assert {batch for batch, _ in toy.calls} <= {1, batch_size}
  for result, one in zip(results, clips, strict=True):
    assert result.dtype == toy.model.nothing.dtype
    np.testing.assert_allclose(result, toy.expected(one)[: len(result)], rtol=1e-5)
    assert len(result) == len(toy.expected(one))


def test_clips_of_like_length_go_together_and_what_is_left_alone():
  toy = running_sum()
  run(toy.model, [clip(n * UNIT) for n in (9, 2, 5, 1, 7, 4, 3, 8)], 3)
  assert toy.calls == [(3, 4), (3, 8), (1, 12), (1, 12)]


def test_pooled_chunks_go_together_whichever_clips_they_are_of():
  toy = margined()
  run(toy.model, [clip(n * UNIT) for n in (40, 2, 50, 4)], 4)
  # Three and four of the long ones, and two of the short ones.
  assert sorted(toy.calls) == [(1, 4), (1, 4), *[(1, 16)] * 3, (4, 16)]


def test_there_may_be_more_frames_than_the_inputs_imply():
  toy = neighbours()
  (result,) = run(toy.model, [clip(4 * UNIT)], 1, [6])
  assert len(result) == 2 * 6
  np.testing.assert_allclose(result[:8], toy.expected(clip(4 * UNIT)), rtol=1e-6)


def test_no_clips_give_no_results():
  assert run(neighbours().model, [], 3) == [] and run(margined().model, [], 3) == []


def test_rows_are_cut_to_clips_and_results_filled_up_to_rows():
  rows = np.arange(6).reshape(2, 3)
  assert [c.tolist() for c in clips_of(rows, None)] == [[0, 1, 2], [3, 4, 5]]
  clips = clips_of(rows, np.array([3, 1]))
  assert rows_of(clips, np.zeros(0, np.int8), 4).tolist() == [[0, 1, 2, 0], [3, 0, 0, 0]]
  empty = rows_of([], np.zeros((0, 5), np.int32), 4)
  assert empty.shape == (0, 4, 5) and empty.dtype == np.int32
