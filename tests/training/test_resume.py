"""Killed and started again, every kind of model ends with the bits of an uninterrupted run."""

import jax
import numpy as np
import pytest
import soundfile
from helpers_training import curve

from audiolm_jax.codec.discriminators import DiscriminatorConfig
from audiolm_jax.codec.losses import SpectralLossConfig
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.codec.training import CodecTrainable, CodecTrainingConfig
from audiolm_jax.data import in_memory, token_store
from audiolm_jax.lm import stages
from audiolm_jax.lm.training import StageTrainable, StageTrainingConfig
from audiolm_jax.lm.transformer import TransformerConfig
from audiolm_jax.semantic.w2v_bert import SemanticTrainable, W2vBertConfig
from audiolm_jax.training import checkpoints, trainer
from tests.conftest import melody, miniature_conformer

STEPS, PERIOD = 8, 3
STAGE = stages.semantic_stage(crop_seconds=2.0, num_clusters=16, codebook_size=16)


class Killed(Exception):
  """Stands for anything that ends a process at a random moment."""


def codec():
  """With codebooks, judges and k-means start all switched on before the kill."""
  model = SoundStreamConfig(
    encoder_channels=2, decoder_channels=2, latent_dim=8, num_quantizers=2, codebook_size=16
  )
  judges = DiscriminatorConfig(
    wave_scales=(1,), wave_channels=2, wave_max_channels=4, stft_windows=(256,), stft_channels=2
  )
  return CodecTrainable(
    CodecTrainingConfig(
      model=model,
      discriminators=judges,
      spectral=SpectralLossConfig(windows=(64, 512), num_mels=16),
      quantizer_start_step=1,
      adversarial_start_step=2,
      kmeans_vectors=64,
    )
  )


def semantic():
  config = W2vBertConfig(encoder=miniature_conformer(), codebook_size=16, code_dim=8)
  return SemanticTrainable(config)


def stage():
  transformer = TransformerConfig(num_layers=1, embed_dim=16, num_heads=2, mlp_dim=32)
  return StageTrainable(StageTrainingConfig(spec=STAGE, transformer=transformer))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Melodies, and a store of random tokens."""
  folder = tmp_path_factory.mktemp("corpus")
  (folder / "sounds" / "train").mkdir(parents=True)
  writer = token_store.TokenStoreWriter(folder / "tokens", "hash")
  rng = np.random.default_rng(0)
  for i in range(5):
    soundfile.write(folder / "sounds" / "train" / f"{i}.wav", melody(3.0, seed=i), 16_000)
    tokens = rng.integers(0, 16, 80)
    writer.add(
      token_store.TokenClip(id=str(i), semantic=tokens, codes=None, split="train", seconds=3.2)
    )
  writer.finish()
  return folder


def batches(corpus, kind):
  if kind is stage:
    return in_memory.InMemoryTokens(corpus / "tokens", STAGE, batch_size=2, seed=1)
  return in_memory.InMemoryWaveforms(corpus / "sounds", crop_seconds=0.8, batch_size=2, seed=1)


class KilledAt:
  """The same batches, until the one that ends the run."""

  def __init__(self, batches, at):
    self._batches, self._left = batches, at

  def __next__(self):
    self._left -= 1
    if self._left < 0:
      raise Killed
    return next(self._batches)

  def __getattr__(self, name):
    return getattr(self._batches, name)


def run(folder, kind, dataset):
  return trainer.train(
    model=kind(),
    train_dataset=dataset,
    model_dir=folder,
    total_steps=STEPS,
    log_period=2,
    eval_period=0,
    tensorboard=False,
    checkpoint=trainer.CheckpointConfig(period=PERIOD),
  )


@pytest.mark.parametrize("kind", [codec, semantic, stage], ids=lambda kind: kind.__name__)
def test_a_killed_run_goes_on_to_the_same_bits(kind, corpus, tmp_path):
  run(tmp_path / "whole", kind, lambda: batches(corpus, kind))
  with pytest.raises(Killed):
    # One batch is read before the first step, to see its shape.
    run(tmp_path / "parts", kind, lambda: KilledAt(batches(corpus, kind), 1 + 5))
  result = run(tmp_path / "parts", kind, lambda: batches(corpus, kind))
  assert result.finished and result.step == STEPS
  assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
  whole, parts = (
    checkpoints.load_inference_params(tmp_path / name)[2] for name in ("whole", "parts")
  )
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
