"""The pieces of the GPU benchmark, in miniature on a CPU."""

import dataclasses

import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.sampling.decoder import StageSampler
from benchmarks import decoding, gpu, machine
from benchmarks.models import random_stage

SMALL = TransformerConfig(num_layers=1, dim=16, num_heads=2, mlp_dim=32, dropout_rate=0.0)


def test_it_refuses_a_machine_without_a_gpu():
  with pytest.raises(UserError, match="needs a GPU, and JAX runs on cpu"):
    gpu.measure()


def test_a_step_reads_the_weights_once_and_a_cache_for_each_row():
  sampler = StageSampler(random_stage(stages.coarse_stage(), SMALL))
  one, three = (decoding.bytes_per_step(sampler, rows) for rows in (1, 3))
  assert three - one == 2 * 2336 * SMALL.cache_bytes_per_token


def test_the_rows_make_a_page(monkeypatch, miniature_bundle):
  monkeypatch.setattr(decoding, "_TOKENS", 800)
  monkeypatch.setattr(gpu, "_STEPS", 3)
  monkeypatch.setattr(gpu, "_NEW_SECONDS", 0.4)
  spec = dataclasses.replace(stages.coarse_stage(), crop_seconds=0.4)
  sampler = StageSampler(random_stage(stages.coarse_stage(), SMALL))
  found = {
    "read_gb_per_s": 1,
    "matmul_tflops": 1,
    "decoding": [gpu.decoding_row(sampler, 2, 1e9)],
    "continuation": [gpu.continuation_row(miniature_bundle, 2)],
    "training": [gpu.training_row(spec, SMALL, 2, machine.matmul_rate())],
  }
  assert found["decoding"][0]["tokens_per_second"] > 0
  assert found["continuation"][0]["computing_over_new_sound"] > 0
  assert 0 < found["training"][0]["share_of_matrix_rate"] < 1
  assert found["training"][0]["rows"] == 2 and found["training"][0]["length"] == spec.max_length
  page = gpu.text(found)
  assert page.count("| coarse | 2 x") == 1 and page.count("\n|") == 9
