import numpy as np
import pytest

from audiolm_jax.evaluation.statistics import bootstrap_estimate, mean_estimate, ratio_estimate


def test_mean_interval_has_the_width_of_the_standard_error():
  values = np.random.default_rng(0).standard_normal(400)
  estimate = mean_estimate(values)
  assert estimate.value == pytest.approx(values.mean())
  assert estimate.n == 400
  assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
  assert estimate.low < estimate.value < estimate.high


def test_nan_observations_do_not_count():
  estimate = mean_estimate([1.0, float("nan"), 3.0])
  assert (estimate.value, estimate.n) == (2.0, 2)


def test_no_observations_give_nan():
  assert np.isnan(mean_estimate([]).value)
  assert np.isnan(bootstrap_estimate(lambda rows: 0.0, 0).value)


def test_basic_interval_reflects_a_biased_statistic():
  values = np.arange(50.0)
  biased = bootstrap_estimate(lambda rows: len(set(values[rows])), len(values))
  assert biased.value == 50
  assert biased.low > 50  # every resample has fewer distinct values


def test_same_seed_gives_the_same_interval():
  values = np.random.default_rng(0).standard_normal(30)
  assert mean_estimate(values, seed=3) == mean_estimate(values, seed=3)


def test_a_ratio_is_over_all_units_and_ignores_observations_without_any():
  estimate = ratio_estimate(np.array([[1, 2], [1, 8], [0, 0]]))
  assert (estimate.value, estimate.n) == (0.2, 2)
  assert 0.125 == estimate.low < estimate.value < estimate.high == 0.5


def test_errors_without_reference_words_count_and_no_words_have_no_ratio():
  assert ratio_estimate(np.array([[3, 0], [1, 8]])).value == 0.5
  assert ratio_estimate(np.array([[3, 0]])).n == 0
  assert ratio_estimate(np.zeros((0, 2), int)).n == 0
