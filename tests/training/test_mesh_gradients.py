"""Training steps of all models on meshes of eight devices equal those on one device."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.conftest import forced_devices, miniature_conformer
from tests.training.test_meshes import codec

ALL_MESHES = ("8x1x1", "4x2x1", "2x2x2", "1x1x8")
MESHES = {
  "codec": ALL_MESHES,
  "semantic_encoder": ALL_MESHES,
  "semantic_stage": ALL_MESHES,
  "coarse_stage": ALL_MESHES,
  "fine_stage": ALL_MESHES,
  "detector": ALL_MESHES,
  "parallel_stage": ("2x2x2",),
  # A coarse stage with its layers in one loop. Without `fsdp`: if it gathers parameters in such a
  # loop, XLA's collectives between forced host devices can deadlock.
  "stacked": ("8x1x1", "4x1x2"),
  # The same stage with its batch in two parts, compared with the whole batch at once.
  "microbatches": ("8x1x1", "4x1x2"),
}
# The coarse stage has the layers of the other two stages.
SLOW = ("codec", "semantic_encoder", "semantic_stage", "fine_stage")
# Relative to the largest gradient. The codec's losses have kinks; if rounding moves a sample across
# one, its contribution to the gradient changes its sign.
TOLERANCE = {"codec": 1e-2}
LEARNING_RATE = 0.01
ROWS = 16


def make(component, mesh):
  """Returns a miniature model and a batch for it."""
  from audiolm_jax.training.optimizers import OptimizerConfig

  # Plain gradient descent, so the change of a parameter is proportional to its gradient.
  optimizer = OptimizerConfig(name="sgd", learning_rate=LEARNING_RATE, b1=0.0)
  if component == "codec":
    return codec(generator_optimizer=optimizer, discriminator_optimizer=optimizer)
  if component == "semantic_encoder":
    return semantic_encoder(optimizer)
  if component == "detector":
    return detector(optimizer)
  if component == "parallel_stage":
    return parallel_stage(optimizer)
  return stage(component, optimizer, parts=2 if mesh != "1x1x1" else 1)


def semantic_encoder(optimizer):
  from audiolm_jax.trainables.w2v_bert import SemanticTrainable, W2vBertConfig
  from tests.conftest import melody

  config = W2vBertConfig(
    encoder=miniature_conformer(), codebook_size=16, code_dim=8, optimizer=optimizer
  )
  lengths = np.linspace(0.5, 1.0, ROWS)
  batch = {
    "waveform": np.stack(
      [np.pad(w := melody(s, seed=i), (0, 16_000 - len(w))) for i, s in enumerate(lengths)]
    ),
    "length": np.round(lengths * 16_000).astype(np.int32),
  }
  return SemanticTrainable(config), batch


def detector(optimizer):
  from audiolm_jax.detection.classifier import ClassifierConfig
  from audiolm_jax.semantic.features import LogMelConfig
  from audiolm_jax.trainables.detector import DetectorTrainable, DetectorTrainingConfig
  from tests.conftest import melody

  config = ClassifierConfig(features=LogMelConfig(num_mels=16), channels=(8, 16), groups=2)
  batch = {
    "waveform": np.stack([melody(0.5, seed=i) for i in range(ROWS)]),
    "length": np.full(ROWS, 8_000, np.int32),
    "label": np.arange(ROWS, dtype=np.int32) % 2,
  }
  return DetectorTrainable(DetectorTrainingConfig(config, optimizer)), batch


def stage(component, optimizer, parts):
  from helpers_lm import CONFIG, SPECS, random_batch

  from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig

  stacked = component == "stacked"
  spec = SPECS[component.removesuffix("_stage") if component.endswith("_stage") else "coarse"]
  config = dataclasses.replace(CONFIG, num_kv_heads=2, dropout_rate=0.0, scan_layers=stacked)
  microbatches = parts if component == "microbatches" else 1
  training = StageTrainingConfig(spec, config, optimizer, microbatches=microbatches)
  return StageTrainable(training), random_batch(spec, rows=ROWS)


def parallel_stage(optimizer):
  from helpers_parallel import CONFIG, CROP, SPEC, parallel_batch

  from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig

  training = StageTrainingConfig(SPEC, CONFIG, optimizer)
  return StageTrainable(training), parallel_batch(*[CROP, CROP - 3] * (ROWS // 2))


def constants(component):
  """Returns the parameters that a new state needs and training does not change."""
  if component != "parallel_stage":
    return None
  from helpers_parallel import BOOKS

  return {"codebooks": BOOKS}


def learned(state):
  """Returns the parameters in a state of any model."""
  if hasattr(state, "params"):
    return state.params
  return {"generator": state.generator, "discriminators": state.discriminators}


def check_no_attention_matrix_is_exchanged(program, length):
  """Asserts that the devices sum the gradient of the table of the position bias."""
  from audiolm_jax.training.hlo import HloProgram

  for collective in HloProgram(program.compiled(0).as_text()).collectives():
    for array in collective.arrays:
      assert array.shape.count(length) < 2, f"{collective.kind} of {array}"


def train(component, mesh):
  """Returns the sum of the gradients of two steps for each parameter, and their metrics."""
  from audiolm_jax.training import metrics as metrics_lib
  from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig
  from audiolm_jax.training.program import TrainingProgram

  model, batch = make(component, mesh)
  sizes = tuple(int(n) for n in mesh.split("x"))
  partitioner = Partitioner(PartitioningConfig(*sizes), devices=jax.devices()[: np.prod(sizes)])  # pyright: ignore[reportArgumentType]: three sizes
  program = TrainingProgram(model, partitioner, batch)
  if sizes[2] == 1 and "decoder_input_tokens" in batch:
    check_no_attention_matrix_is_exchanged(program, batch["decoder_input_tokens"].shape[1])
  key = program.put(jax.random.key(0))
  state = program.init(key, batch, constants(component))
  before, logged = jax.device_get(learned(state)), []
  for _ in range(2):
    state, totals, _ = program.step(int(state.step), state, program.empty_metrics(), batch, key)
    logged.append(metrics_lib.means(totals))
  assert not any(metrics.get("skipped_steps") for metrics in logged)
  after = jax.device_get(learned(state))
  return jax.tree.map(lambda a, b: (a - b) / LEARNING_RATE, before, after), logged


def compare(component):
  expected, expected_metrics = train(component, "1x1x1")
  moved = [np.abs(x).max() > 0 for x in jax.tree.leaves(expected)]
  assert np.mean(moved) > 0.9, f"{component}: hardly a parameter has a gradient"
  tolerance = TOLERANCE.get(component, 5e-4)
  for mesh in MESHES[component]:
    gradients, metrics = train(component, mesh)
    for found, wanted in zip(metrics, expected_metrics, strict=True):
      for name, value in wanted.items():
        np.testing.assert_allclose(
          found[name], value, rtol=tolerance / 2, atol=1e-5, err_msg=f"{component} {mesh} {name}"
        )
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for (path, wanted), found in zip(
      jax.tree.leaves_with_path(expected), jax.tree.leaves(gradients), strict=True
    ):
      where = f"{component} {mesh} {jax.tree_util.keystr(path)}"
      scale = max(np.abs(wanted).max(), 1e-2 * largest)
      np.testing.assert_allclose(found / scale, wanted / scale, atol=tolerance, err_msg=where)
    print(component, mesh, "equal", flush=True)


@pytest.mark.parametrize(
  "component",
  [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MESHES],
)
def test_losses_and_gradients_on_every_mesh_are_those_of_one_device(component):
  here = Path(__file__)
  done = subprocess.run(
    [sys.executable, str(here), component],
    env={
      **os.environ,
      "PYTHONPATH": f"{here.parents[2]}:{here.parents[1] / 'lm'}",
      **forced_devices(8),
    },
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines() == [f"{component} {mesh} equal" for mesh in MESHES[component]]


if __name__ == "__main__":
  for name in sys.argv[1:] or MESHES:
    compare(name)
