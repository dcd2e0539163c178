"""A stage's training step on meshes of eight devices against one device."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

STEPS = 3
# (data, fsdp, model) and whether the layers are stacked.
MESHES = {"8x1x1": False, "4x1x2": True, "2x2x2": False}


def train(mesh: tuple[int, int, int], scan_layers: bool):
  """The stage's unstacked parameters and losses after a few steps."""
  import dataclasses

  from helpers_lm import CONFIG, SPECS, random_batch

  from audiolm_jax.lm.training import StageTrainable, StageTrainingConfig
  from audiolm_jax.lm.transformer import stack_layers
  from audiolm_jax.training.optimizers import OptimizerConfig
  from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig, unbox

  spec = SPECS["coarse"]
  config = dataclasses.replace(CONFIG, num_kv_heads=2, dropout_rate=0.0)
  optimizer = OptimizerConfig(name="sgd", learning_rate=0.1)
  plain = StageTrainable(StageTrainingConfig(spec, config, optimizer))
  config = dataclasses.replace(config, scan_layers=scan_layers)
  model = StageTrainable(StageTrainingConfig(spec, config, optimizer))
  batch = random_batch(spec, rows=8)

  state = unbox(jax.jit(plain.init)(jax.random.key(0), batch))
  params = stack_layers(state.params) if scan_layers else state.params
  partitioner = Partitioner(PartitioningConfig(*mesh), devices=jax.devices()[: int(np.prod(mesh))])
  with partitioner.context():
    boxed = jax.eval_shape(model.init, jax.random.key(0), batch)
    shardings = partitioner.state_shardings(boxed)
    fresh = unbox(jax.jit(model.init)(jax.random.key(0), batch))
    state = jax.device_put(dataclasses.replace(fresh, params=params), shardings)
    step = jax.jit(model.train_step, out_shardings=(shardings, partitioner.replicated))
    losses = []
    for i in range(STEPS):
      state, metrics = step(state, partitioner.put_batch(batch), jax.random.key(i))
      losses.append(float(metrics["loss"]))
  return jax.device_get(model.inference_params(state)), losses


def main() -> None:
  expected, expected_losses = train((1, 1, 1), False)
  assert expected_losses[-1] < expected_losses[0]
  for name, scan_layers in MESHES.items():
    mesh = tuple(int(n) for n in name.split("x"))
    params, losses = train(mesh, scan_layers)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, expected)
    print(name, "equal")


def test_sharded_steps_equal_those_of_one_device():
  here = Path(__file__)
  done = subprocess.run(
    [sys.executable, str(here)],
    env={
      **os.environ,
      "PYTHONPATH": f"{here.parents[2]}:{here.parent}",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    },
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [word for name in MESHES for word in (name, "equal")]


if __name__ == "__main__":
  main()
