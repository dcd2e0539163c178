"""The train command, ended at any moment and started again: the bits of an uninterrupted run."""

import json
import random
import re
import shutil
import signal
import time
from typing import NamedTuple

import command_runs as runs
import pytest

# Checkpoints come every PERIOD steps; the stage's steps are quick, so it makes more of them.
PERIOD = 10
STEPS = {"codec": 60, "semantic": 60, "coarse_stage": 400, "bfloat16_stage": 400}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  return runs.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
  """Folders of runs that nothing interrupted, each made when it is first asked for."""
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
  """When to end a process: so long after its start, a logged step, or the beginning of a save."""

  after: str  # "start", "step" or "save"
  step: int
  delay: float
  signal: int = signal.SIGKILL


def moments(kind, count, seed):
  """Spread over the run; of ten, two in start-up and three while a checkpoint is written."""
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
  """Sends the signal at its moment and waits; the exit code."""
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
  """Starts the command again after each of `ends`, then lets it finish; what is left each time.

  What is promised: a save begins every PERIOD steps and waits for the one before. So all but the
  newest save that had begun are whole, and the run goes on from the newest whole one.
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
      print(f"{number}: {moment}; logged {reached}, whole {kept}, saves cut off: {cut}")
  assert resumed, "the last start did not go on from a checkpoint"


@pytest.mark.parametrize("kind", ["codec", "bfloat16_stage"])
def test_a_killed_run_goes_on_to_the_same_bits(kind, corpus, whole, tmp_path):
  arguments = the_command(kind, corpus, tmp_path / "run")
  run_with_ends(arguments, tmp_path / "run", tmp_path / "log", moments(kind, 2, seed=1))
  runs.assert_same_run(tmp_path / "run", whole(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(STEPS))
def test_ten_kills_leave_no_trace(kind, corpus, whole, tmp_path):
  arguments = the_command(kind, corpus, tmp_path / "run")
  run_with_ends(arguments, tmp_path / "run", tmp_path / "log", moments(kind, 10, seed=0))
  runs.assert_same_run(tmp_path / "run", whole(kind))


@pytest.mark.parametrize("kind", ["codec", "coarse_stage"])
def test_sigterm_saves_where_it_is_and_the_run_goes_on_to_the_same_bits(
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


@pytest.mark.parametrize("kind", ["codec", "coarse_stage"])
def test_damaged_checkpoints_are_passed_over_in_words(kind, corpus, whole, tmp_path):
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
  said = runs.run(the_command(kind, corpus, model_dir), tmp_path / "log")
  for bad in (truncated, half):
    assert re.search(f"{bad.name} cannot be read .* and {good.name} is used", said)
    assert list(model_dir.glob(f"damaged_{bad.name}_*"))
  assert f"resuming from {good.name}" in said
  runs.assert_same_run(model_dir, whole(kind))


@pytest.mark.parametrize("kind", ["codec", "coarse_stage"])
def test_the_data_position_takes_a_few_bytes(kind, whole):
  for folder in whole(kind).glob("checkpoint_*/progress"):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000


@pytest.mark.slow
def test_what_seqio_reads_goes_on_where_it_was(corpus, tmp_path):
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


@pytest.mark.parametrize("kind", ["coarse_stage", "bfloat16_stage"])
def test_an_evaluation_that_a_kill_took_is_made_up(kind, corpus, whole, tmp_path):
  model_dir, log = tmp_path / "run", tmp_path / "log"
  shutil.copytree(whole(kind), model_dir)
  rows = (model_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
  assert '"eval"' in rows[-1]
  (model_dir / "metrics.jsonl").write_text("".join(rows[:-1]))
  # No step is left: a process that makes no bfloat16 products finds the same.
  said = runs.run(the_command(kind, corpus, model_dir, bindings=["PRODUCTS='float32'"]), log)
  assert ("until this checkpoint in bfloat16" in said) == (kind == "bfloat16_stage")
  runs.assert_same_run(model_dir, whole(kind))
