"""Scripts that really train: several processes of this machine, and what SLURM would start."""

import os
import signal
import subprocess
import sys

import pytest

from tests.launch.fake_tools import REPO, calls, make_fakes
from tests.training import small_run

# Starts two processes as SLURM does, passes SIGTERM on to them, and ends with the worst exit code.
SRUN = """#!{python}
import os, signal, subprocess, sys
command = [word for word in sys.argv[1:]]
command = command[command.index({python!r}):]
places = [dict(SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2", SLURM_PROCID=str(i),
               SLURM_LOCALID=str(i)) for i in range(2)]
tasks = [subprocess.Popen(command, env=os.environ | place) for place in places]
signal.signal(signal.SIGUSR1, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokens")
  small_run.write_tokens(folder)
  return folder


def start(script, *arguments, log, path=None, **environment):
  environment = {**os.environ, "PYTHON": sys.executable, **environment}
  if path:
    environment["PATH"] = f"{path}:{environment['PATH']}"
  with open(log, "w") as file:
    return subprocess.Popen(
      [REPO / "launch" / script, *arguments], env=environment, stdout=file, stderr=file
    )


def flags(*arguments):
  return ["--", *small_run.flags("semantic_stage", *arguments)]


def test_two_processes_of_this_machine_train_and_log_their_index(tokens, tmp_path):
  log = tmp_path / "log"
  run = start("local.sh", "--processes=2", *flags(tokens, tmp_path / "run", 3), log=log)
  assert run.wait(120) == 0, log.read_text()
  assert small_run.checkpoints(tmp_path / "run") == [3]
  lines = log.read_text().splitlines()
  assert all(line.startswith(("[0] ", "[1] ")) for line in lines)
  assert any("2 cpu device(s)" in line for line in lines)


@pytest.mark.parametrize("killed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_ends_one_process_of_this_machine_ends_all(killed, tokens, tmp_path):
  log = tmp_path / "log"
  run = start("local.sh", "--processes=2", *flags(tokens, tmp_path / "run", 100_000), log=log)
  try:
    small_run.wait_for_checkpoint(tmp_path / "run", run)
    if killed:
      trainers = children(run.pid)
      assert len(trainers) == 2
      os.kill(trainers[1], signal.SIGKILL)
    else:
      run.terminate()
    code = run.wait(30)
  finally:
    left = children(run.pid)
    for process in left:
      os.kill(process, signal.SIGKILL)
    run.kill()
  assert left == []
  if killed:
    assert code in (1, 137), log.read_text()[-3000:]  # the other one's, or its own
  else:
    assert code == 143, log.read_text()[-3000:]
    newest = small_run.checkpoints(tmp_path / "run")[-1]
    assert f"saved checkpoint_{newest} of 100000" in log.read_text()


def children(process):
  """The trainers that a process has started."""
  listed = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True)
  rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
  return [int(pid) for pid, parent, command in rows
          if int(parent) == process and "audiolm_jax.train" in command]  # fmt: skip


@pytest.mark.parametrize(
  ("state", "requeued"),
  [("RUNNING", True), pytest.param("COMPLETING", False, marks=pytest.mark.slow)],
)
def test_a_slurm_job_near_its_limit_saves_and_queues_again(state, requeued, tokens, tmp_path):
  fakes = make_fakes(tmp_path / "bin", "scontrol")
  (fakes / "srun").write_text(SRUN.format(python=sys.executable))
  (fakes / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
  for name in ("srun", "squeue"):
    (fakes / name).chmod(0o755)
  log = tmp_path / "log"
  job = start(
    "slurm.sh",
    *flags(tokens, tmp_path / "run", 100_000),
    log=log,
    path=fakes,
    SLURM_JOB_ID=str(os.getpid()),
  )
  try:
    small_run.wait_for_checkpoint(tmp_path / "run", job)
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(job.pid)], capture_output=True)
    os.kill(int(listed.stdout.split()[0]), signal.SIGUSR1)
    if state != "RUNNING":
      job.terminate()
    assert job.wait(60) == 143, log.read_text()[-3000:]
  finally:
    job.kill()
  assert "2 cpu device(s)" in log.read_text()
  newest = small_run.checkpoints(tmp_path / "run")[-1]
  assert f"saved checkpoint_{newest} of 100000" in log.read_text()
  expected = [["scontrol", "requeue", str(os.getpid())]] if requeued else []
  assert (calls(fakes) if (fakes / "calls").exists() else []) == expected
