"""Training steps compiled for absent TPUs, and the limits of their resources."""

import dataclasses
import importlib.util
import re

import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data import datasets
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training import aot, tpu_topologies
from audiolm_jax.training.hlo import Array, Collective
from audiolm_jax.training.partitioning import PartitioningConfig, make_mesh

needs_libtpu = pytest.mark.skipif(
  not importlib.util.find_spec("libtpu"), reason="libtpu is not installed (extra tpu)"
)
SPEC = stages.coarse_stage(crop_seconds=3.0, num_clusters=16, codebook_size=16)
MODEL = StageTrainable(
  StageTrainingConfig(
    spec=SPEC,
    transformer=TransformerConfig(
      num_layers=2, dim=128, num_heads=2, mlp_dim=256, scan_layers=True, dtype="bfloat16"
    ),
  )
)
REPORT = aot.StepReport(
  topology="v5e:4x4",
  chips=16,
  mesh=(16, 1, 1),
  arguments=2 << 30,
  temporaries=6 << 30,
  memory=16 << 30,
  compile_seconds=50.0,
  cycles=1000,
  collectives=(Collective("all-reduce", (Array("f32", (128, 128)),), 12),),
  largest_parameter=Array("f32", (128, 256)),
  squares=(),
)


def test_a_step_within_its_limits_passes_none():
  assert REPORT.passed_limits(aot.StepLimits(compile_seconds=90), REPORT) == []


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"temporaries": 11 << 30}, "memory: 81% of a chip's, more than 80%"),
    ({"compile_seconds": 91.0}, "compile time: 91 s"),
    (
      {"collectives": (Collective("all-gather", (Array("f32", (256, 256)),), 1),)},
      r"f32\[256,256\] is larger than the largest parameter, f32\[128,256\]",
    ),
    ({"squares": (Array("bf16", (4, 750, 750)),)}, r"attention: bf16\[4,750,750\]"),
    ({"arguments": (2 << 30) + 1}, "arguments: .* more than .* on v5e:4x4"),
    ({"cycles": 1051}, "cycles: 1.051 times those on v5e:4x4"),
  ],
)
def test_each_exceeded_limit_is_reported(changes, words):
  report = dataclasses.replace(REPORT, topology="v5e:16x16", **changes)
  passed = report.passed_limits(aot.StepLimits(compile_seconds=90), REPORT)
  assert len(passed) == 1 and re.search(words, passed[0]), passed


@pytest.fixture(scope="module")
def reports():
  """Returns reports of a miniature coarse stage, with the parameters whole and split."""
  found = {}
  for mesh in ((-1, 1, 1), (-1, 2, 1)):
    batch = datasets.InMemoryTokens("", SPEC, batch_size=8).batch_shapes()
    found[mesh] = aot.compile_step(MODEL, batch, PartitioningConfig(*mesh), "v5e:2x2")
  return found


@needs_libtpu
def test_a_miniature_stage_keeps_the_limits_on_a_slice_of_four_chips(reports):
  for report in reports.values():
    assert report.passed_limits(aot.StepLimits()) == []
    assert report.chips == 4 and report.memory == 16 << 30
    assert report.cycles > 0 and 0 < report.arguments < 16 << 20
    assert "all-reduce" in report.text() and "v5e:2x2" in report.text()


@needs_libtpu
def test_splitting_the_parameters_takes_less_memory_for_arguments(reports):
  whole, split = reports.values()
  assert split.arguments < 0.8 * whole.arguments
  assert any(c.kind == "all-gather" for c in split.collectives)


@needs_libtpu
def test_the_position_bias_is_summed_over_its_table(reports):
  c = MODEL.config.transformer
  for report in reports.values():
    arrays = [array for collective in report.collectives for array in collective.arrays]
    assert Array("f32", (c.num_buckets, c.num_heads)) in arrays
    assert not any(array.shape.count(SPEC.max_length) > 1 for array in arrays)


@needs_libtpu
def test_a_step_that_does_not_fit_is_refused_with_the_memory_it_needs():
  batch = datasets.InMemoryTokens("", SPEC, batch_size=4 * 4096).batch_shapes()
  with pytest.raises(tpu_topologies.OutOfMemoryError, match=r"a v5e:2x2 chip: it needs [\d.]+G of"):
    aot.compile_step(MODEL, batch, PartitioningConfig(), "v5e:2x2")


@needs_libtpu
def test_a_slice_that_does_not_exist_is_refused():
  with pytest.raises(ConfigError, match="unknown TPU slice 'v5e:3x77'"):
    tpu_topologies.tpu_devices("v5e:3x77")


@needs_libtpu
@pytest.mark.parametrize("topology, fsdp", [("v4:8x8x4", 16), ("v6e:16x16", 2)])
def test_an_axis_of_a_mesh_may_be_part_of_an_axis_of_the_slice(topology, fsdp):
  mesh = make_mesh(PartitioningConfig(fsdp=fsdp), tpu_topologies.tpu_devices(topology))
  assert dict(mesh.shape) == {"data": 256 // fsdp, "fsdp": fsdp, "model": 1}


@needs_libtpu
def test_the_parameters_of_several_slices_stay_within_each():
  mesh = make_mesh(PartitioningConfig(fsdp=4), tpu_topologies.tpu_devices("v5e:4x4", 2))
  assert dict(mesh.shape) == {"data": 8, "fsdp": 4, "model": 1}
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  assert (slices == slices[:, :1]).all() and len(set(slices[:, 0, 0])) == 2


@needs_libtpu
def test_parameters_cannot_be_split_across_slices():
  with pytest.raises(ConfigError, match="fsdp and model that fit within one slice"):
    make_mesh(PartitioningConfig(data=1, fsdp=32), tpu_topologies.tpu_devices("v5e:4x4", 2))
