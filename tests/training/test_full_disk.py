"""Training on a full disk: a small file system, which only root can mount."""

import os
import re
import subprocess
import time

import command_runs as runs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trainable as toy

from audiolm_jax.core.errors import CheckpointError
from audiolm_jax.trainables import registry
from audiolm_jax.training import checkpoints


class Disk:
  """A file system of 4 MiB."""

  def __init__(self, folder):
    self.folder = folder

  def fill(self):
    with open(self.folder / "filler", "wb", buffering=0) as file:
      try:
        while True:
          file.write(bytes(4096))
      except OSError:
        pass

  def make_room(self):
    (self.folder / "filler").unlink()


@pytest.fixture
def disk(tmp_path):
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
  if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("cannot mount a small file system here")
  yield Disk(folder)
  subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_failed_save_leaves_no_files_and_the_next_one_succeeds(disk):
  saved = checkpoints.Checkpoints(disk.folder / "run")
  state = {"w": jnp.asarray(np.random.default_rng(0).random(50_000))}
  saved.save(1, state, {})
  saved.wait()
  disk.fill()
  with pytest.raises(CheckpointError, match=r"checkpoint_2 could .*No space.* is checkpoint_1"):
    saved.save(2, state, {})
    saved.wait()
  assert {path.name for path in saved.model_dir.iterdir()} == {"checkpoint_1"}
  disk.make_room()
  saved.save(3, state, {})
  saved.wait()
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  restored = saved.restore(abstract)
  assert restored.step == 3 and not restored.damaged  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  np.testing.assert_array_equal(restored.state["w"], state["w"])  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  saved.close()


def test_training_continues_on_a_full_disk_and_saves_when_there_is_space(disk, tmp_path, capfd):
  toy.run(tmp_path / "whole")

  def happen(position):  # in the thread that prefetches batches, a few steps ahead
    if position == 8:
      while not runs.saved_steps(disk.folder / "run"):
        time.sleep(0.001)
      disk.fill()
    elif position == 22:
      disk.make_room()

  assert toy.run(disk.folder / "run", train_dataset=lambda: toy.ToyData(on_batch=happen)).finished
  log = capfd.readouterr().err
  assert "checkpoint_10 could not be written" in log
  assert "the newest complete one is checkpoint_5; training continues" in log
  assert runs.saved_steps(disk.folder / "run")[-1] == 24
  assert not runs.unfinished(disk.folder / "run")
  one, other = (
    registry.load_inference_params(f)[2] for f in (disk.folder / "run", tmp_path / "whole")
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_run_that_failed_on_a_full_disk_resumes_from_its_last_checkpoint(disk, tmp_path):
  corpus = runs.make_corpus(tmp_path / "corpus")
  arguments = {
    folder: runs.command(
      "coarse_stage",
      corpus,
      folder / "run",
      steps=200,
      period=10,
      bindings=[f"trainer.TrainConfig.tensorboard={folder == disk.folder}"],
    )
    for folder in (tmp_path, disk.folder)
  }
  runs.run(arguments[tmp_path], tmp_path / "whole.log")
  process = runs.start(arguments[disk.folder], tmp_path / "log")
  while not runs.saved_steps(disk.folder / "run"):
    assert process.poll() is None
    time.sleep(0.001)
  disk.fill()
  assert process.wait(300) == 2
  log = (tmp_path / "log").read_text()
  last = max(runs.saved_steps(disk.folder / "run"))
  assert last < 200
  assert f"the newest complete one is checkpoint_{last}; training continues" in log
  assert log.splitlines()[-1].startswith("error: checkpoint_200 could not be written")
  assert "Traceback" not in log
  for what in ("metrics.jsonl", "TensorBoard files"):
    assert re.search(f"cannot write .*{what}.*; lines are lost", log)
  assert runs.run(arguments[disk.folder], tmp_path / "log", code=2).endswith("another folder\n")
  disk.make_room()
  assert f"resuming from checkpoint_{last}" in runs.run(arguments[disk.folder], tmp_path / "log")
  runs.assert_same_run(disk.folder / "run", tmp_path / "run")
