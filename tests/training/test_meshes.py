"""Training steps of every trainable on meshes of eight devices, against one device."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

MESHES = ("8x1x1", "4x2x1", "2x2x2", "1x1x8")
COMPONENTS = ("codec", "semantic", "semantic_stage", "coarse_stage", "stacked", "fine_stage")
LEARNING_RATE = 0.1
ROWS = 8


def make_codec(optimizer):
  from audiolm_jax.codec.discriminators import DiscriminatorConfig
  from audiolm_jax.codec.losses import SpectralLossConfig
  from audiolm_jax.codec.soundstream import SoundStreamConfig
  from audiolm_jax.codec.training import CodecTrainable, CodecTrainingConfig

  model = SoundStreamConfig(
    encoder_channels=2, decoder_channels=2, latent_dim=8, num_quantizers=2, codebook_size=8
  )
  judges = DiscriminatorConfig(
    wave_scales=(1,), wave_channels=2, wave_max_channels=4, stft_windows=(256,), stft_channels=2
  )
  return CodecTrainable(
    CodecTrainingConfig(
      model=model,
      discriminators=judges,
      spectral=SpectralLossConfig(windows=(64, 512), num_mels=16),
      generator_optimizer=optimizer,
      discriminator_optimizer=optimizer,
      kmeans_vectors=64,
    )
  )


def make_semantic(optimizer):
  from audiolm_jax.semantic.conformer import ConformerConfig
  from audiolm_jax.semantic.features import LogMelConfig
  from audiolm_jax.semantic.w2v_bert import SemanticTrainable, W2vBertConfig

  encoder = ConformerConfig(
    features=LogMelConfig(num_mels=16),
    stacks=(1, 1),
    dim=16,
    num_heads=2,
    mlp_dim=32,
    kernel_size=3,
    subsample_channels=4,
    left_context=3,
    right_context=2,
    dropout_rate=0.0,
  )
  return SemanticTrainable(
    W2vBertConfig(encoder=encoder, codebook_size=16, code_dim=8, optimizer=optimizer)
  )


def make_stage(name, scan_layers, optimizer):
  from helpers_lm import CONFIG, SPECS

  from audiolm_jax.lm.training import StageTrainable, StageTrainingConfig

  config = dataclasses.replace(CONFIG, num_kv_heads=2, dropout_rate=0.0, scan_layers=scan_layers)
  return StageTrainable(StageTrainingConfig(SPECS[name], config, optimizer))


def make(component):
  """A trainable in miniature and a batch for it."""
  from helpers_lm import SPECS, random_batch

  from audiolm_jax.training.optimizers import OptimizerConfig

  # Plain gradient descent: how far a parameter moves is its gradient.
  optimizer = OptimizerConfig(name="sgd", learning_rate=LEARNING_RATE, b1=0.0)
  rng = np.random.default_rng(0)
  if component == "codec":
    return make_codec(optimizer), {
      "waveform": rng.normal(size=(ROWS, 1600)).astype(np.float32) * 0.2
    }
  if component == "semantic":
    return make_semantic(optimizer), {
      "waveform": rng.normal(size=(ROWS, 16000)).astype(np.float32) * 0.2,
      "length": np.full(ROWS, 16000, np.int32),
    }
  name = "coarse" if component == "stacked" else component.removesuffix("_stage")
  model = make_stage(name, component == "stacked", optimizer)
  return model, random_batch(SPECS[name], rows=ROWS)


def train(component, mesh):
  """The first gradients and what two steps say: {parameter: array}, [metrics]."""
  from audiolm_jax.training import metrics as metrics_lib
  from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig
  from audiolm_jax.training.program import Program

  model, batch = make(component)
  sizes = tuple(int(n) for n in mesh.split("x"))
  partitioner = Partitioner(PartitioningConfig(*sizes), devices=jax.devices()[: np.prod(sizes)])
  program = Program(model, partitioner, batch)
  key = program.put(jax.random.key(0))
  state = program.init(key, batch)
  learned = [n for n in ("params", "generator", "discriminators") if hasattr(state, n)]

  def parameters(state):
    return jax.device_get({name: getattr(state, name) for name in learned})

  before, gradients, said = parameters(state), None, []
  for _ in range(2):
    state, totals, _ = program.step(state, program.empty_metrics(), batch, key)
    said.append(metrics_lib.means(totals))
    if gradients is None:
      gradients = jax.tree.map(lambda a, b: (a - b) / LEARNING_RATE, before, parameters(state))
  assert not any(metrics.get("skipped_steps") for metrics in said)
  return gradients, said


def compare(component):
  expected, expected_metrics = train(component, "1x1x1")
  moved = [np.abs(x).max() > 0 for x in jax.tree.leaves(expected)]
  assert np.mean(moved) > 0.9, f"{component}: hardly a parameter has a gradient"
  for mesh in MESHES:
    gradients, metrics = train(component, mesh)
    for found, wanted in zip(metrics, expected_metrics, strict=True):
      for name, value in wanted.items():
        np.testing.assert_allclose(
          found[name], value, rtol=2e-4, atol=1e-5, err_msg=f"{component} {mesh} {name}"
        )
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for (path, wanted), found in zip(
      jax.tree.leaves_with_path(expected), jax.tree.leaves(gradients), strict=True
    ):
      where = f"{component} {mesh} {jax.tree_util.keystr(path)}"
      scale = max(np.abs(wanted).max(), 1e-3 * largest)
      np.testing.assert_allclose(found / scale, wanted / scale, atol=5e-4, err_msg=where)
    print(component, mesh, "equal", flush=True)


@pytest.mark.parametrize("component", COMPONENTS)
def test_losses_and_gradients_on_every_mesh_are_those_of_one_device(component):
  here = Path(__file__)
  done = subprocess.run(
    [sys.executable, str(here), component],
    env={
      **os.environ,
      "PYTHONPATH": f"{here.parents[2]}:{here.parents[1] / 'lm'}",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    },
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines() == [f"{component} {mesh} equal" for mesh in MESHES]


if __name__ == "__main__":
  for name in sys.argv[1:] or COMPONENTS:
    compare(name)
