"""Runs `python -m audiolm_jax.train` on miniature models in processes that tests can kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import soundfile
from helpers_training import curve

from audiolm_jax.data import token_shards, token_store
from audiolm_jax.trainables import registry
from tests.conftest import MINIATURE_CODEC, MINIATURE_ENCODER, melody

REPO = Path(__file__).parents[2]
LOG_PERIOD = 3  # does not divide the checkpoint period, so checkpoints contain partial sums

# Settings that no macro of the shipped files covers.
MINIATURE_LOSS = """
from __gin__ import dynamic_registration
from audiolm_jax.codec import losses
from audiolm_jax.trainables import codec as codec_training
codec_training.CodecTrainingConfig.spectral = @losses.SpectralLossConfig()
losses.SpectralLossConfig.windows = (64, 512)
losses.SpectralLossConfig.num_mels = 16
"""

_COMMON = (
  "BATCH_SIZE=2",
  f"LOG_PERIOD={LOG_PERIOD}",
  "EVAL_STEPS=1",
  "trainer.TrainConfig.tensorboard=False",
)
_TINY_STAGE = (
  "NUM_CLUSTERS=16",
  "CODEBOOK_SIZE=16",
  "CROP_SECONDS=1.0",
  "NUM_FRAME_EMBEDDINGS=0",
  "WARMUP_STEPS=2",
  "transformer.TransformerConfig.num_layers=1",
  "transformer.TransformerConfig.dim=16",
  "transformer.TransformerConfig.mlp_dim=32",
)
BINDINGS = {
  # Codebooks, discriminators and fixed codes all start in the course of the run.
  "codec": (
    "codec_tiny",
    "audio_in_memory",
    (
      *MINIATURE_CODEC,
      "NUM_QUANTIZERS=2",
      "soundstream.SoundStreamConfig.strides=(16,20)",
      "soundstream.SoundStreamConfig.dilations=(1,)",
      "QUANTIZER_START_STEP=4",
      "ADVERSARIAL_START_STEP=9",
      "CODES_FIXED_STEP=50",
      "discriminators.DiscriminatorConfig.stft_channels=2",
      "discriminators.DiscriminatorConfig.stft_windows=(256,)",
      "generator/optimizers.OptimizerConfig.name='adam'",  # Muon compiles slowly; the stage uses it
      "generator/optimizers.OptimizerConfig.warmup_steps=2",
    ),
  ),
  "semantic": (
    "semantic_encoder_tiny",
    "audio_in_memory",
    (
      "WARMUP_STEPS=2",
      "CROP_SECONDS=1.0",
      *MINIATURE_ENCODER,
    ),
  ),
  "coarse_stage": ("coarse_stage_tiny", "tokens_in_memory", (*_TINY_STAGE, "PRODUCTS='float32'")),
  "detector": (
    "detector_tiny",
    "labelled_audio_in_memory",
    (
      "CROP_SECONDS=0.5",
      "classifier.ClassifierConfig.channels=(4,8,8)",
      "classifier.ClassifierConfig.groups=2",
    ),
  ),
  "bfloat16_stage": (
    "coarse_stage_tiny",
    "tokens_in_memory",
    (
      *_TINY_STAGE,
      "PRODUCTS='bfloat16'",
      "transformer.TransformerConfig.scan_layers=True",
      "transformer.TransformerConfig.remat='minimal'",
    ),
  ),
}


def make_corpus(folder):
  """Writes melodies to `sounds` and random tokens to `tokens`."""
  writer = token_store.TokenStoreWriter(folder / "tokens", "hash")
  rng = np.random.default_rng(0)
  for i in range(6):
    split = "valid" if i == 5 else "train"
    path = folder / "sounds" / split / f"{i}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, melody(2.0, seed=i), 16_000)
    writer.add(
      token_shards.TokenClip(
        id=str(i),
        streams={
          "semantic": rng.integers(0, 16, 75).astype(np.int32),
          "codes": rng.integers(0, 16, (150, 12)).astype(np.int32),
        },
        split=split,
        seconds=3.0,
      )
    )
  writer.finish()
  (folder / "miniature_loss.gin").write_text(MINIATURE_LOSS)
  return folder


def command(kind, corpus, model_dir, *, steps, period, data=None, bindings=()):
  """Returns the command that trains a miniature model."""
  config, in_memory, smaller = BINDINGS[kind]
  data = data or in_memory
  source = "TOKENS_DIR" if data == "tokens_in_memory" else "AUDIO_DIR"
  where = corpus / ("tokens" if data == "tokens_in_memory" else "sounds")
  settings = (
    *_COMMON,
    *smaller,
    f"{source}='{where}'",
    f"MODEL_DIR='{model_dir}'",
    f"TRAIN_STEPS={steps}",
    f"CHECKPOINT_PERIOD={period}",
    f"EVAL_PERIOD={2 * period}",
    *bindings,
  )
  return [
    *(sys.executable, "-m", "audiolm_jax.train", f"--gin_file=gin_configs/{config}.gin"),
    f"--gin_file=gin_configs/runs/{data}.gin",
    *([f"--gin_file={corpus / 'miniature_loss.gin'}"] if kind == "codec" else []),
    *(f"--gin.{setting}" for setting in settings),
  ]


def start(arguments, log, **environment):
  """Starts a process that writes its output to the file `log`."""
  with open(log, "w") as file:
    return subprocess.Popen(
      arguments,
      cwd=REPO,
      env={**os.environ, "PYTHONPATH": str(REPO), **environment},
      stdout=file,
      stderr=file,
    )


def run(arguments, log, code=0, **environment):
  """Runs a command that must end with exit code `code`; returns its output."""
  ended = start(arguments, log, **environment).wait(600)
  assert ended == code, f"exit code {ended}\n{Path(log).read_text()[-4000:]}"
  return Path(log).read_text()


def last_row(model_dir):
  """Returns the step of the newest complete row; 0 before the first."""
  path = Path(model_dir) / "metrics.jsonl"
  rows = path.read_text().split("\n")[:-1] if path.exists() else []
  return json.loads(rows[-1])["step"] if rows else 0


def saved_steps(model_dir):
  """Returns the steps of the complete checkpoints."""
  return sorted(
    int(p.name[11:]) for p in Path(model_dir).glob("checkpoint_*") if p.name[11:].isdigit()
  )


def unfinished(model_dir):
  """Returns the folders of interrupted saves."""
  return list(Path(model_dir).glob("*.orbax-checkpoint-tmp*"))


def assert_same_run(one, other):
  """Asserts that losses and parameters are bit-identical."""
  assert curve(one) == curve(other)
  found, expected = (registry.load_inference_params(folder)[2] for folder in (one, other))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
