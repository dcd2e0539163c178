import numpy as np
import pytest

from audiolm_jax.core.sliced import SlicedBlocks


def test_slices_in_rising_order_are_those_of_the_array_and_keep_few_blocks():
  whole = np.random.default_rng(0).random((100, 3)).astype(np.float32)
  made = []

  def blocks():
    made.append(0)
    for start in range(0, 100, 7):
      made[-1] += 1
      yield whole[start : start + 7]

  sliced = SlicedBlocks(blocks, whole.shape)
  assert len(sliced) == 100 and sliced.shape == (100, 3)
  for first, last in ((0, 5), (3, 20), (20, 20), (20, 31), (25, 31), (90, 120)):
    np.testing.assert_array_equal(sliced[first:last], whole[first:last])
    assert sum(map(len, sliced._kept)) <= 21
  assert made == [15]
  np.testing.assert_array_equal(sliced[1:2], whole[1:2])
  assert made == [15, 1]
  np.testing.assert_array_equal(np.asarray(sliced), whole)


@pytest.mark.parametrize("shape", [(0,), (0, 4)])
def test_an_empty_array_has_empty_slices(shape):
  assert SlicedBlocks(lambda: [], shape)[0:5].shape == shape
