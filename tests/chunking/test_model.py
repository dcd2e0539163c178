import doctest

import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax import chunking
from audiolm_jax.chunking import ChunkedModel, Sizes, zero_state
from audiolm_jax.core.errors import ConfigError
from tests.chunking.toys import neighbours


def test_the_example_of_the_package_gives_its_stated_result():
  found = doctest.testmod(chunking)
  assert found.attempted > 8 and not found.failed


def test_an_initial_state_is_zero_in_every_array():
  def make(batch):
    return jnp.ones((), bool), {"past": jnp.ones((batch, 3))}

  started, rest = zero_state(make, 2)
  assert started.dtype == bool and not started
  np.testing.assert_array_equal(rest["past"], np.zeros((2, 3)))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"left": 9, "right": 7}, "depends on 9 frames before and 7 after"),
    ({"left": 1, "initial_state": np.zeros}, "neither pooled nor overlapping"),
    ({"pooled": True, "initial_state": np.zeros}, "neither pooled nor overlapping"),
  ],
)
def test_declarations_that_cannot_be_run_are_named(changes, words):
  step, nothing = neighbours().model.step, np.zeros(0)
  with pytest.raises(ConfigError, match=words):
    ChunkedModel(step, nothing, Sizes.in_steps(16, 4), **changes)


def test_what_is_cut_has_zeros_where_the_clip_has_no_more():
  model = ChunkedModel(
    neighbours().model.step, np.zeros(0), Sizes.in_steps(4, 1), unit=2, margins=(3, 1)
  )
  clip = np.arange(1, 8, dtype=np.int16)
  assert model.cut(clip, 0, 2).tolist() == [0, 0, 0, 1, 2, 3, 4, 5]
  assert model.cut(clip, 2, 2).tolist() == [2, 3, 4, 5, 6, 7, 0, 0]
  assert model.cut(clip[1:], 2, 2, dropped=1).tolist() == [2, 3, 4, 5, 6, 7, 0, 0]
  assert model.cut(clip, 6, 1).tolist() == [0] * 6 and model.cut(clip, 0, 1).dtype == np.float32
