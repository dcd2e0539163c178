"""The mesh, the shardings that follow from axis names, and equality with one device."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_trainable as toy
from flax import linen as nn
from jax.sharding import PartitionSpec

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.trainables import registry
from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig, make_mesh
from tests.conftest import forced_devices

REPO = Path(__file__).parents[2]


def train_on_mesh(mesh, model_dir, steps=6):
  """Trains the toy on eight forced host devices and returns its stderr."""
  done = subprocess.run(
    [sys.executable, str(Path(__file__).with_name("toy_trainable.py")), str(model_dir), str(steps)],
    env={
      **os.environ,
      "PYTHONPATH": str(REPO),
      "TOY_MESH": mesh,
      **forced_devices(8),
    },
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return done.stderr


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
  folder = tmp_path_factory.mktemp("one_device")
  toy.run(folder, total_steps=6)
  return registry.load_inference_params(folder)[2]


@pytest.mark.parametrize("mesh", ["8x1x1", "4x2x1", "2x2x2", "1x1x8"])
def test_a_sharded_run_equals_one_device(mesh, tmp_path, one_device):
  train_on_mesh(mesh, tmp_path)
  sharded = registry.load_inference_params(tmp_path)[2]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), sharded, one_device)


def test_a_run_resumes_on_another_mesh(tmp_path, one_device):
  train_on_mesh("2x2x2", tmp_path, steps=3)
  toy.run(tmp_path, total_steps=6)
  resumed = registry.load_inference_params(tmp_path)[2]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), resumed, one_device)


def test_shardings_follow_the_axis_names(tmp_path):
  train_on_mesh("2x2x2", tmp_path, steps=1)
  info = (tmp_path / "model-info.txt").read_text().splitlines()
  params = [" ".join(line.split()) for line in info if line.startswith("params/")]
  assert params == [
    "params/wi/bias float32[32]",
    "params/wi/kernel float32[16, 32] fsdp model",
    "params/wo/bias float32[1]",
    "params/wo/kernel float32[32, 1] model -",  # 1 is not divisible by 2
  ]


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (0, 1, 1), (1, 1, 2)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
  with pytest.raises(ConfigError, match="data="):
    make_mesh(PartitioningConfig(*sizes), jax.devices()[:1])


def test_additional_rules_come_first():
  partitioner = Partitioner(PartitioningConfig(additional_rules=(("embed", "model"),)))
  box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4, 4), "float32"), ("embed", "heads"))
  sharding = partitioner.state_shardings({"w": box})["w"]
  assert sharding.spec == PartitionSpec(("model",), None)


def test_moments_of_fewer_axes_than_their_parameter_are_replicated():
  partitioner = Partitioner()
  box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4,), "float32"), ("embed", "heads"))
  assert partitioner.state_shardings([box])[0] == partitioner.replicated
