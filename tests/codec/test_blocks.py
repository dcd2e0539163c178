import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.codec.blocks import (
  BLOCK,
  exact_blocks,
  initial_state,
  plan_blocks,
  plan_fitted_blocks,
)


@pytest.mark.parametrize("frames", [1, 50, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77])
def test_blocks_follow_each_other_and_cover_all_frames_in_few_lengths(frames):
  for plan in (plan_blocks, exact_blocks):
    starts, lengths = zip(*plan(frames), strict=True)
    assert list(starts) == [0, *np.cumsum(lengths[:-1])]
  assert sum(lengths) == frames and all(n == BLOCK or n & (n - 1) == 0 for n in lengths)
  starts, lengths = zip(*plan_blocks(frames), strict=True)
  assert starts[-1] < frames <= sum(lengths) and set(lengths) <= {BLOCK, 50}


@pytest.mark.parametrize(
  ("frames", "lengths"),
  [(1, [5]), (5, [5]), (6, [10]), (50, [50]), (51, [50, 5]), (113, [50, 50, 15])],
)
def test_what_is_left_of_fitted_blocks_goes_in_one(frames, lengths):
  starts, found = zip(*plan_fitted_blocks(frames, 50), strict=True)
  assert list(found) == lengths and list(starts) == [0, 50, 100][: len(lengths)]


def test_no_frames_make_no_block():
  for plan in (plan_blocks, exact_blocks, lambda frames: plan_fitted_blocks(frames, BLOCK)):
    assert not list(plan(0))


def test_an_initial_state_is_zero_in_every_array():
  def make(size, batch):
    return jnp.ones((), bool), {"past": jnp.ones((batch, size))}

  started, rest = initial_state(make, 3, 2)
  assert started.dtype == bool and not started
  np.testing.assert_array_equal(rest["past"], np.zeros((2, 3)))
