import numpy as np
import pytest

from audiolm_jax.evaluation.diversity import diversity


def apart(one, other):
  return abs(one - other)


def test_equal_samples_have_diversity_0():
  found = diversity([[3.0, 3.0, 3.0], [5.0, 5.0, 5.0]], apart)
  assert (found.within.value, found.between.value) == (0.0, 2.0)
  assert (found.within.n, found.between.n) == (2, 2)


def test_distances_are_means_over_all_pairs_of_a_prompt_and_between_prompts():
  found = diversity([[0.0, 1.0, 3.0], [10.0, 10.0, 16.0]], apart)
  assert found.within.value == pytest.approx((2 + 4) / 2)
  assert found.between.value == pytest.approx(12 - 4 / 3)


def test_each_prompt_weighs_the_same_however_many_samples_it_has():
  found = diversity([[0.0, 2.0], [0.0, 0.0, 0.0, 0.0]], apart)
  assert found.within.value == 1.0


def test_undefined_distances_do_not_count():
  found = diversity([[0.0, np.nan, 2.0], [np.nan, np.nan]], apart)
  assert (found.within.value, found.within.n) == (2.0, 1)
  assert np.isnan(found.between.value)


def test_one_prompt_has_nothing_to_be_compared_with():
  found = diversity([[0.0, 4.0]], apart)
  assert found.within.value == 4.0
  assert found.between.n == 0
