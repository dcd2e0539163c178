"""The page on the cost of training."""

from pathlib import Path

import pytest

from benchmarks import training_cost

PAGE = Path(__file__).parents[2] / "launch" / "cost.md"


@pytest.fixture
def flags():
  training_cost.FLAGS.unparse_flags()
  training_cost.FLAGS(["training_cost"])
  return training_cost.FLAGS


def test_the_committed_page_is_what_the_script_prints(flags):
  message = "python -m benchmarks.training_cost > launch/cost.md"
  assert training_cost.page() == PAGE.read_text(), message


def test_hours_follow_from_peak_and_utilisation(flags):
  need = training_cost.Need("x", 1, flops_per_step=197e12 * 16 * 0.5, steps=7200, utilisation=0.5)
  machine = training_cost.Machine("v5e-16", 16, "TPU v5 lite", 1.2)
  assert need.hours(machine) == pytest.approx(2.0)


def test_a_coarse_stage_needs_six_flops_per_parameter_and_token_and_its_attention(flags):
  need = training_cost.need("coarse_stage_base")
  tokens, layers = 2251, 12
  weights = layers * (4 * 1024**2 + 2 * 1024 * 4096)
  output = 2000 * 1024 * 1024
  attention = layers * tokens * (tokens + 1) * 1024
  assert need.flops_per_step == pytest.approx(256 * 6 * (weights * tokens + output + attention))
