"""The page of results, and the pieces that it is made from."""

import json
from pathlib import Path

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.sampling.decoder import StageSampler
from benchmarks import continuation, decoding, machine, run
from benchmarks.models import random_stage

RESULTS = Path(run.__file__).parent / "results"


def test_the_committed_page_is_made_from_the_committed_results():
  message = "python -m benchmarks.run writes both"
  assert (RESULTS.parent / "RESULTS.md").read_text() == run.page(), message


@pytest.mark.parametrize("name", sorted(set(run.BENCHMARKS) - {"peers", "gpu"}))
def test_every_benchmark_has_a_result_and_names_its_machine(name):
  found = json.loads((RESULTS / f"{name}.json").read_text())
  assert found["machine"]["read_gb_per_s"] > 0 and found["machine"]["matmul_gflops"] > 0
  assert found["machine"]["devices"] and found["machine"]["packages"]["jax"]


def test_a_benchmark_that_does_not_exist_is_refused():
  with pytest.raises(UserError, match="no benchmark speed; choose from decoding, continuation,"):
    run.main(["run", "speed"])


def test_time_by_position_covers_what_is_drawn(monkeypatch):
  monkeypatch.setattr(decoding, "_TOKENS", 1100)
  shape = TransformerConfig(num_layers=1, dim=16, num_heads=2, mlp_dim=32, dropout_rate=0.0)
  curve = decoding.by_position(StageSampler(random_stage(stages.coarse_stage(), shape)), rows=1)
  # Stretches of 256 after the first, which has the prefill in it, and the rest.
  assert [point["position"] for point in curve] == [60 + 384, 60 + 640, 60 + 896, 60 + 1062]
  assert all(point["ms"] > 0 for point in curve)


def test_the_prompt_is_neither_silent_nor_clipped():
  prompt = continuation.prompt()
  assert len(prompt) == 48_000 and 0.1 < np.abs(prompt).max() < 0.9


def test_rates_are_those_of_a_machine():
  assert 1e8 < machine.read_rate() < 1e13 and 1e8 < machine.matmul_rate() < 1e16
