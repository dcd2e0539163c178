"""Training as several processes that find each other with jax.distributed, on CPU collectives."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from audiolm_jax.data import token_store

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  """A token store of a minute of random tokens."""
  folder = tmp_path_factory.mktemp("tokens")
  rng = np.random.default_rng(0)
  writer = token_store.TokenStoreWriter(folder, "hash")
  for i in range(12):
    clip = token_store.TokenClip(
      id=str(i),
      semantic=rng.integers(0, 16, 125).astype(np.int32),
      codes=rng.integers(0, 16, (250, 12)).astype(np.int32),
      split="valid" if i == 0 else "train",
      seconds=5.0,
    )
    writer.add(clip)
  writer.finish()
  return folder


def command(stage, tokens, folder, steps):
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
    "transformer.TransformerConfig.embed_dim=16",
    "transformer.TransformerConfig.mlp_dim=32",
    "train.tensorboard=False",
  ]
  if stage == "semantic_stage":
    bindings.remove("CODEBOOK_SIZE=16")
  return [
    *(sys.executable, "-m", "audiolm_jax.train", f"--gin_file=gin_configs/{stage}_tiny.gin"),
    "--gin_file=gin_configs/runs/tokens_in_memory.gin",
    *(f"--gin.{binding}" for binding in bindings),
  ]


def free_port():
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


def start(arguments, log, index=None, port=None):
  if index is not None:
    arguments = [
      *arguments,
      "--multiprocess_gpu",
      f"--coordinator_address=localhost:{port}",
      "--process_count=2",
      f"--process_index={index}",
    ]
  with open(log, "w") as file:
    return subprocess.Popen(
      arguments,
      cwd=REPO,
      env={**os.environ, "PYTHONPATH": str(REPO)},
      stdout=file,
      stderr=file,
    )


def start_pair(arguments, folder):
  """Two processes that train together, and the files of what they say."""
  port = free_port()
  logs = [folder / f"{i}.log" for i in range(2)]
  return [start(arguments, log, i, port) for i, log in enumerate(logs)], logs


def losses(folder):
  rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
  return [(row["split"], row["step"], row["loss"]) for row in rows]


@pytest.mark.parametrize("stage", ["semantic_stage", "coarse_stage", "fine_stage"])
def test_two_processes_learn_what_one_does(stage, tokens, tmp_path):
  one = start(command(stage, tokens, tmp_path / "one", 20), tmp_path / "one.log")
  assert one.wait(300) == 0, (tmp_path / "one.log").read_text()
  both, logs = start_pair(command(stage, tokens, tmp_path / "two", 20), tmp_path)
  codes = [process.wait(300) for process in both]
  assert codes == [0, 0], [log.read_text() for log in logs]
  assert "2 cpu device(s)" in logs[0].read_text()
  expected, found = losses(tmp_path / "one"), losses(tmp_path / "two")
  assert [row[:2] for row in found] == [row[:2] for row in expected] and len(found) == 21
  np.testing.assert_allclose([r[2] for r in found], [r[2] for r in expected], rtol=1e-4)


def test_a_killed_process_ends_the_job_which_goes_on_from_its_checkpoint(tokens, tmp_path):
  arguments = command("coarse_stage", tokens, tmp_path / "run", 100_000)
  both, logs = start_pair(arguments, tmp_path)
  end = time.monotonic() + 240
  while not list((tmp_path / "run").glob("checkpoint_*/commit_success.txt")):
    assert time.monotonic() < end and both[0].poll() is None, logs[0].read_text()
    time.sleep(0.5)
  both[1].send_signal(signal.SIGKILL)
  both[1].wait(10)
  try:
    assert both[0].wait(60) not in (0, 2)
  finally:
    both[0].kill()
  assert "process 0 of 2 ends" in logs[0].read_text()

  newest = max(int(p.parent.name[11:]) for p in (tmp_path / "run").glob("*/commit_success.txt"))
  # Alone: what two processes saved, one goes on with.
  alone = start(command("coarse_stage", tokens, tmp_path / "run", newest + 3), tmp_path / "2.log")
  assert alone.wait(300) == 0, (tmp_path / "2.log").read_text()
  assert f"going on from checkpoint_{newest}" in (tmp_path / "2.log").read_text()
