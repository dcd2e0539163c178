"""A training command that is killed and rerun gives the bits of an uninterrupted run."""

import json
import random
import re
import shutil
import signal
import time
from typing import NamedTuple

import command_runs as runs
import pytest

# Checkpoints are saved every PERIOD steps; the steps of a stage are fast, so it runs more of them.
PERIOD = 10
STEPS = {"codec": 60, "semantic": 60, "coarse_stage": 400, "bfloat16_stage": 400}


SLOW_CODEC = pytest.param("codec", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  return runs.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
  """Returns a function that trains without interruption, once per model, and returns the folder."""
  folder, made = tmp_path_factory.mktemp("whole"), {}

  def make(kind):
    if kind not in made:
      made[kind] = folder / kind
      runs.run(the_command(kind, corpus, made[kind]), folder / f"{kind}.log")
    return made[kind]

  return make


def the_command(kind, corpus, model_dir, **settings):
  return runs.command(kind, corpus, model_dir, steps=STEPS[kind], period=PERIOD, **settings)


class Moment(NamedTuple):
  """When to kill a process: `delay` seconds after its start, a logged step or a save's start."""

  after: str  # "start", "step" or "save"
  step: int
  delay: float
  signal: int = signal.SIGKILL


def moments(kind, count, seed):
  """Returns moments over the whole run; of ten, two during start-up and three during saves."""
  rng = random.Random(seed)
  share = (STEPS[kind] - PERIOD) / count
  steps = [round(share * (i + rng.random())) for i in range(count)]
  afters = (["save", "step"] if count == 2 else ["start"] * 2 + ["save"] * 3 + ["step"] * count)[
    :count
  ]
  rng.shuffle(afters)
  longest = {"start": 4.0, "step": 0.1, "save": 0.03}
  return [
    Moment(after, step, rng.uniform(0, longest[after]))
    for after, step in zip(afters, steps, strict=True)
  ]


def end(process, model_dir, moment):
  """Sends the signal at its moment, waits and returns the exit code."""
  limit = time.monotonic() + 300

  def wait_until(condition):
    while not condition():
      assert process.poll() is None, f"ended with {process.poll()} before {moment}"
      assert time.monotonic() < limit, f"never came to {moment}"
      time.sleep(0.001)

  if moment.after != "start":
    wait_until(lambda: runs.last_row(model_dir) >= moment.step)
  if moment.after == "save":
    wait_until(lambda: runs.unfinished(model_dir))
  time.sleep(moment.delay)
  process.send_signal(moment.signal)
  return process.wait(60)


def run_with_ends(arguments, model_dir, log, ends):
  """Reruns the command after each of `ends`, then lets it finish; checks the saved checkpoints.

  A save starts every PERIOD steps and waits for the previous one. So all saves that had started are
  complete except the newest one, and the run resumes from the newest complete one.
  """
  kept = 0
  for number, moment in enumerate([*ends, None]):
    process = runs.start(arguments, log)
    if moment is None:
      assert process.wait(600) == 0, log.read_text()[-4000:]
    else:
      code = end(process, model_dir, moment)
      assert code == (143 if moment.signal == signal.SIGTERM else -moment.signal), log.read_text()
    resumed = re.search(r"resuming from checkpoint_(\d+)", log.read_text())
    assert not resumed or int(resumed[1]) == kept
    reached, saved = runs.last_row(model_dir), runs.saved_steps(model_dir)
    kept = max(saved, default=0)
    begun = max(reached - 1, 0) // PERIOD * PERIOD
    assert kept >= begun - PERIOD and reached - kept <= 2 * PERIOD
    if moment is not None:
      cut = len(runs.unfinished(model_dir))
      print(f"{number}: {moment}; logged {reached}, saved {kept}, interrupted saves: {cut}")
  assert resumed, "the last start did not resume from a checkpoint"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codec", "bfloat16_stage"])
def test_a_killed_run_resumes_to_the_same_bits(kind, corpus, whole, tmp_path):
  arguments = the_command(kind, corpus, tmp_path / "run")
  run_with_ends(arguments, tmp_path / "run", tmp_path / "log", moments(kind, 2, seed=1))
  runs.assert_same_run(tmp_path / "run", whole(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(STEPS))
def test_ten_kills_leave_no_trace(kind, corpus, whole, tmp_path):
  arguments = the_command(kind, corpus, tmp_path / "run")
  run_with_ends(arguments, tmp_path / "run", tmp_path / "log", moments(kind, 10, seed=0))
  runs.assert_same_run(tmp_path / "run", whole(kind))


@pytest.mark.parametrize("kind", [SLOW_CODEC, "coarse_stage"])
def test_sigterm_saves_the_current_step_and_the_run_resumes_to_the_same_bits(
  kind, corpus, whole, tmp_path
):
  model_dir, log = tmp_path / "run", tmp_path / "log"
  arguments = the_command(kind, corpus, model_dir)
  process = runs.start(arguments, log)
  assert end(process, model_dir, Moment("step", 15, 0.01, signal.SIGTERM)) == 143, log.read_text()
  saved = max(runs.saved_steps(model_dir))
  assert f"SIGTERM: saved checkpoint_{saved} of {STEPS[kind]}" in log.read_text()
  assert runs.last_row(model_dir) == saved // runs.LOG_PERIOD * runs.LOG_PERIOD
  assert not runs.unfinished(model_dir)
  assert f"resuming from checkpoint_{saved}" in runs.run(arguments, log)
  runs.assert_same_run(model_dir, whole(kind))


@pytest.mark.parametrize("kind", [SLOW_CODEC, "coarse_stage"])
def test_damaged_checkpoints_are_skipped_and_reported(kind, corpus, whole, tmp_path):
  model_dir, steps = tmp_path / "run", STEPS[kind]
  shutil.copytree(whole(kind), model_dir)
  truncated, half, good = (model_dir / f"checkpoint_{steps - i * PERIOD}" for i in range(3))
  for path in (truncated / "state").rglob("*"):
    if path.is_file() and path.stat().st_size > 100:
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  written = sorted(path for path in half.rglob("*") if path.is_file())
  for path in written[len(written) // 2 :]:
    path.unlink()
  shutil.copytree(half, model_dir / f"checkpoint_{steps}.orbax-checkpoint-tmp")
  log = runs.run(the_command(kind, corpus, model_dir), tmp_path / "log")
  for bad in (truncated, half):
    assert re.search(f"{bad.name} cannot be read .* and using {good.name}", log)
    assert list(model_dir.glob(f"damaged_{bad.name}_*"))
  assert f"resuming from {good.name}" in log
  runs.assert_same_run(model_dir, whole(kind))


@pytest.mark.parametrize("kind", [SLOW_CODEC, "coarse_stage"])
def test_the_data_position_takes_a_few_bytes(kind, whole):
  for folder in whole(kind).glob("checkpoint_*/progress"):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000


@pytest.mark.slow
def test_a_seqio_pipeline_resumes_at_its_position(corpus, tmp_path):
  pytest.importorskip("seqio")
  settings = {"steps": 40, "period": PERIOD, "data": "audio_folder"}
  uninterrupted = runs.command("codec", corpus, tmp_path / "whole", **settings)
  runs.run(uninterrupted, tmp_path / "whole.log")
  arguments = runs.command("codec", corpus, tmp_path / "run", **settings)
  ends = [Moment("step", 13, 0.05), Moment("save", 27, 0.01)]
  run_with_ends(arguments, tmp_path / "run", tmp_path / "log", ends)
  runs.assert_same_run(tmp_path / "run", tmp_path / "whole")
  progress = json.loads((tmp_path / "run" / "checkpoint_40" / "progress" / "metadata").read_text())
  assert progress["data"] == {"seed": 0, "batches": 40}


@pytest.mark.parametrize(
  "kind", ["coarse_stage", pytest.param("bfloat16_stage", marks=pytest.mark.slow)]
)
def test_an_evaluation_lost_by_a_kill_is_repeated(kind, corpus, whole, tmp_path):
  model_dir, log = tmp_path / "run", tmp_path / "log"
  shutil.copytree(whole(kind), model_dir)
  rows = (model_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
  assert '"eval"' in rows[-1]
  (model_dir / "metrics.jsonl").write_text("".join(rows[:-1]))
  # No step remains, so a process with float32 products finds the same metrics.
  output = runs.run(the_command(kind, corpus, model_dir, bindings=["PRODUCTS='float32'"]), log)
  assert ("bfloat16 until this checkpoint" in output) == (kind == "bfloat16_stage")
  runs.assert_same_run(model_dir, whole(kind))
