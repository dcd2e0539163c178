import numpy as np
import pytest

from audiolm_jax.evaluation import detection_scores


@pytest.mark.parametrize(
  ("real", "synthetic", "error_rate", "area"),
  [
    ([-2.0, -1.0], [1.0, 2.0], 0.0, 1.0),
    ([1.0, 2.0], [-2.0, -1.0], 1.0, 0.0),
    ([0.0, 1.0, 2.0, 3.0], [2.5, 3.5, 4.5, 5.5], 0.25, 15 / 16),
    ([0.0, 0.0], [0.0, 0.0], 0.5, 0.5),
  ],
)
def test_error_rate_and_area_of_known_scores(real, synthetic, error_rate, area):
  real, synthetic = np.array(real), np.array(synthetic)
  assert detection_scores.equal_error_rate(real, synthetic) == pytest.approx(error_rate)
  assert detection_scores.area_under_roc(real, synthetic) == pytest.approx(area)


def test_the_share_found_grows_with_the_false_alarms_allowed():
  real, synthetic = np.arange(10.0), np.arange(10.0) + 3.5
  found = [detection_scores.found_at(share, real, synthetic) for share in (0.0, 0.1, 0.3, 0.5)]
  assert found == pytest.approx([0.4, 0.5, 0.7, 0.9])
  assert detection_scores.found_at(1.0, real, synthetic) == 1.0
