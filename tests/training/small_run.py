"""The flags of a very small run of a stage on random tokens, for tests of processes."""

import time
from pathlib import Path

import numpy as np

from audiolm_jax.data import token_shards, token_store


def write_tokens(folder):
  """Writes a token store with a minute of random tokens."""
  rng = np.random.default_rng(0)
  writer = token_store.TokenStoreWriter(folder, "hash")
  for i in range(12):
    clip = token_shards.TokenClip(
      id=str(i),
      streams={
        "semantic": rng.integers(0, 16, 125).astype(np.int32),
        "codes": rng.integers(0, 16, (250, 12)).astype(np.int32),
      },
      split="valid" if i == 0 else "train",
      seconds=5.0,
    )
    writer.add(clip)
  writer.finish()


def flags(stage, tokens, folder, steps):
  """Returns the flags of `audiolm_jax.train` that train `stage` in steps of a tenth of a second."""
  bindings = [
    f"TOKENS_DIR='{tokens}'",
    f"MODEL_DIR='{folder}'",
    f"TRAIN_STEPS={steps}",
    "NUM_CLUSTERS=16",
    "CODEBOOK_SIZE=16",
    "BATCH_SIZE=4",
    "CROP_SECONDS=1.0",
    "NUM_FRAME_EMBEDDINGS=0",
    "LOG_PERIOD=1",
    "EVAL_PERIOD=20",
    "EVAL_STEPS=1",
    "WARMUP_STEPS=2",
    "CHECKPOINT_PERIOD=5",
    "DROPOUT_RATE=0.0",
    "optimizers.OptimizerConfig.decay_steps=1000",
    "transformer.TransformerConfig.num_layers=1",
    "transformer.TransformerConfig.dim=16",
    "transformer.TransformerConfig.mlp_dim=32",
    "trainer.TrainConfig.tensorboard=False",
  ]
  if stage == "semantic_stage":
    bindings.remove("CODEBOOK_SIZE=16")
  return [
    f"--gin_file=gin_configs/{stage}_tiny.gin",
    "--gin_file=gin_configs/runs/tokens_in_memory.gin",
    *(f"--gin.{binding}" for binding in bindings),
  ]


def checkpoints(folder):
  """Returns the steps of the complete checkpoints in a run's folder."""
  complete = Path(folder).glob("checkpoint_*/commit_success.txt")
  return sorted(int(path.parent.name.removeprefix("checkpoint_")) for path in complete)


def wait_for_checkpoint(folder, process, seconds=240):
  """Waits for the first checkpoint; fails if the process ends before."""
  end = time.monotonic() + seconds
  while not checkpoints(folder):
    assert time.monotonic() < end and process.poll() is None, f"{folder} has no checkpoint"
    time.sleep(0.5)
