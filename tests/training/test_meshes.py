"""Checkpoints of a codec and a stage on one mesh of eight devices resume on other meshes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.conftest import forced_devices

MESHES = ("8x1x1", "2x2x2", "1x1x8", "1x8x1", "1x1x1")
ROWS = 8


def codec(**settings):
  """Returns a miniature codec that trains all its parts from the first step, and a batch."""
  from audiolm_jax.codec.discriminators import DiscriminatorConfig
  from audiolm_jax.codec.losses import SpectralLossConfig
  from audiolm_jax.codec.soundstream import SoundStreamConfig
  from audiolm_jax.trainables.codec import CodecTrainable, CodecTrainingConfig
  from tests.conftest import melody

  config = CodecTrainingConfig(
    model=SoundStreamConfig(
      encoder_channels=2,
      decoder_channels=2,
      strides=(16, 20),
      dilations=(1,),
      latent_dim=8,
      num_quantizers=2,
      codebook_size=16,
    ),
    discriminators=DiscriminatorConfig(wave_scales=(), stft_windows=(256,), stft_channels=2),
    spectral=SpectralLossConfig(windows=(64, 512), num_mels=16),
    kmeans_vectors=64,
    **settings,
  )
  waveform = np.stack([melody(0.2, seed=row) for row in range(ROWS)])
  return CodecTrainable(config), {"waveform": waveform}


def coarse_stage():
  """Returns a miniature stage and a batch for it."""
  from audiolm_jax.lm import stages
  from audiolm_jax.lm.config import TransformerConfig
  from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
  from audiolm_jax.training.optimizers import OptimizerConfig

  spec = stages.coarse_stage(
    crop_seconds=0.5, num_clusters=15, codebook_size=16, num_target_quantizers=2
  )
  shape = TransformerConfig(num_layers=2, dim=16, num_heads=8, mlp_dim=32)
  optimizer = OptimizerConfig(name="muon", learning_rate=1e-3, weight_decay=0.01)
  model = StageTrainable(StageTrainingConfig(spec, shape, optimizer, ema_decay=0.9))
  rng = np.random.default_rng(0)
  examples = [
    stages.stage_features(spec, rng.integers(0, 15, 12), rng.integers(0, 16, (25, 2)))
    for _ in range(ROWS)
  ]
  return model, {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def compare(kind):
  from audiolm_jax.training import metrics as metrics_lib
  from audiolm_jax.training.checkpoints import Checkpoints
  from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig
  from audiolm_jax.training.program import TrainingProgram

  model, batch = {"codec": codec, "coarse_stage": coarse_stage}[kind]()
  checkpoints = Checkpoints(tempfile.mkdtemp())

  def compiled(mesh):
    sizes = [int(n) for n in mesh.split("x")]
    devices = jax.devices()[: np.prod(sizes)]
    return TrainingProgram(model, Partitioner(PartitioningConfig(*sizes), devices), batch)  # pyright: ignore[reportArgumentType]: three sizes

  def train(program, state):
    logged, key = [], program.put(jax.random.key(0))
    for _ in range(2):
      state, totals, _ = program.step(int(state.step), state, program.empty_metrics(), batch, key)
      logged.append(metrics_lib.means(totals))
    return state, logged

  program = compiled(MESHES[0])
  state, _ = train(program, program.init(program.put(jax.random.key(1)), batch))
  checkpoints.save(2, state, {})
  checkpoints.wait()
  saved = jax.device_get(state)
  _, expected = train(program, state)
  for mesh in MESHES:
    program = compiled(mesh)
    state = checkpoints.restore(program.abstract_state).state  # pyright: ignore[reportOptionalMemberAccess]: it is not None
    for array, wanted in zip(
      jax.tree.leaves(state), jax.tree.leaves(program.abstract_state), strict=True
    ):
      assert array.sharding.is_equivalent_to(wanted.sharding, array.ndim)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), saved)
    _, found = train(program, state)
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4, err_msg=f"{kind} {mesh}")
    print(kind, mesh, "resumes", flush=True)


# Compiling the codec's step takes a minute on each mesh.
@pytest.mark.parametrize("kind", [pytest.param("codec", marks=pytest.mark.slow), "coarse_stage"])
def test_a_checkpoint_of_one_mesh_resumes_on_any_other(kind):
  here = Path(__file__)
  done = subprocess.run(
    [sys.executable, str(here), kind],
    env={
      **os.environ,
      "PYTHONPATH": str(here.parents[2]),
      **forced_devices(8),
    },
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines() == [f"{kind} {mesh} resumes" for mesh in MESHES]


if __name__ == "__main__":
  compare(sys.argv[1])
