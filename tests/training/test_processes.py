"""Training in several processes with jax.distributed and CPU collectives."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training import small_run

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokens")
  small_run.write_tokens(folder)
  return folder


def command(*arguments):
  return [sys.executable, "-m", "audiolm_jax.train", *small_run.flags(*arguments)]


def free_port():
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


def start(arguments, log, index=None, port=None):
  if index is not None:
    arguments = [
      *arguments,
      "--multiprocess",
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
  """Starts two processes that train together; returns them and their log files."""
  port = free_port()
  logs = [folder / f"{i}.log" for i in range(2)]
  return [start(arguments, log, i, port) for i, log in enumerate(logs)], logs


def losses(folder):
  rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
  return [(row["split"], row["step"], row["loss"]) for row in rows]


@pytest.mark.parametrize(
  "stage",
  [
    "coarse_stage",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("semantic_stage", "fine_stage")),
  ],
)
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


def test_a_killed_process_ends_the_job_which_resumes_from_its_checkpoint(tokens, tmp_path):
  arguments = command("coarse_stage", tokens, tmp_path / "run", 100_000)
  both, logs = start_pair(arguments, tmp_path)
  small_run.wait_for_checkpoint(tmp_path / "run", both[0])
  both[1].send_signal(signal.SIGKILL)
  both[1].wait(10)
  try:
    assert both[0].wait(60) not in (0, 2)
  finally:
    both[0].kill()
  # The message of the command, or that of JAX if it detects the dead process first.
  log = logs[0].read_text()
  assert "process 0 of 2 ends" in log or "another task died" in log

  newest = small_run.checkpoints(tmp_path / "run")[-1]
  # One process resumes from the checkpoint of two.
  alone = start(command("coarse_stage", tokens, tmp_path / "run", newest + 3), tmp_path / "2.log")
  assert alone.wait(300) == 0, (tmp_path / "2.log").read_text()
  assert f"resuming from checkpoint_{newest}" in (tmp_path / "2.log").read_text()


@pytest.mark.parametrize(
  "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_to_one_process_makes_all_save_and_end(number, tokens, tmp_path):
  arguments = command("semantic_stage", tokens, tmp_path / "run", 100_000)
  both, logs = start_pair(arguments, tmp_path)
  try:
    small_run.wait_for_checkpoint(tmp_path / "run", both[0])
    both[1].send_signal(number)
    codes = [process.wait(60) for process in both]
  finally:
    for process in both:
      process.kill()
  assert codes == [143, 143], [log.read_text()[-3000:] for log in logs]
  newest = small_run.checkpoints(tmp_path / "run")[-1]
  assert f"saved checkpoint_{newest} of 100000" in logs[0].read_text()
