"""One run at a time in a folder; the lock of a process that has ended delays nobody."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest
import toy_trainable as toy

from audiolm_jax.core import configs
from audiolm_jax.training import run_lock
from audiolm_jax.training.run_lock import LOCK_FILE, LockError


def write(folder, **changes):
  """Writes the lock of this process with other fields, as another process would."""
  owner = dataclasses.replace(run_lock._this_process(), **changes)
  (folder / LOCK_FILE).write_text(json.dumps(configs.to_dict(owner)))


def dead_process():
  child = subprocess.Popen([sys.executable, "-c", ""])
  child.wait()
  return child.pid


def test_a_second_training_in_one_folder_is_refused_and_changes_nothing(tmp_path):
  with run_lock.held(tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(LockError, match=rf"in use by a run of .*process {os.getpid()}, since .*;"):
      toy.run(tmp_path, total_steps=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == before == [LOCK_FILE]
  assert not list(tmp_path.iterdir())
  assert toy.run(tmp_path, total_steps=2).finished
  assert not (tmp_path / LOCK_FILE).exists()


def test_a_run_that_cannot_start_leaves_no_lock(tmp_path):
  with pytest.raises(ZeroDivisionError):
    toy.run(tmp_path, total_steps=2, train_dataset=lambda: 1 // 0)
  assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("field", ["pid", "process_start"])
def test_the_lock_of_a_dead_process_of_this_host_is_replaced_at_once(tmp_path, field):
  write(tmp_path, **{field: {"pid": dead_process, "process_start": lambda: "12"}[field]()})
  started = time.monotonic()
  with run_lock.held(tmp_path):
    owner = run_lock._read(tmp_path / LOCK_FILE)
    assert owner is not None and owner.pid == os.getpid()
  assert time.monotonic() - started < 5


def test_an_old_lock_of_another_host_is_replaced_at_once(tmp_path):
  write(tmp_path, host="other", machine="other")
  old = time.time() - run_lock.STALE_SECONDS - 5
  os.utime(tmp_path / LOCK_FILE, (old, old))
  started = time.monotonic()
  with run_lock.held(tmp_path):
    pass
  assert time.monotonic() - started < 5


def test_a_lock_of_another_host_that_is_not_touched_is_replaced(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.0)
  monkeypatch.setattr(run_lock, "_POLL_SECONDS", 0.1)
  write(tmp_path, host="other", machine="other")
  with run_lock.held(tmp_path):
    assert "waiting for up to 1 s" in capsys.readouterr().err
  assert run_lock.STALE_SECONDS < 60


@pytest.mark.parametrize("content", [None, "{}", "[" * 10_000])
def test_a_lock_of_another_host_that_is_touched_is_kept(tmp_path, monkeypatch, content):
  monkeypatch.setattr(run_lock, "_POLL_SECONDS", 0.1)
  write(tmp_path, host="other", machine="other")
  if content:
    (tmp_path / LOCK_FILE).write_text(content)
  touch = f"import os, time; [(time.sleep(0.2), os.utime({str(tmp_path / LOCK_FILE)!r}))"
  child = subprocess.Popen([sys.executable, "-c", f"{touch} for _ in range(600)]"])
  try:
    with pytest.raises(LockError, match="in use by"), run_lock.held(tmp_path):
      pass
  finally:
    child.kill()
    child.wait()
  assert (tmp_path / LOCK_FILE).exists()


def test_a_run_ends_when_another_has_taken_its_lock(tmp_path, monkeypatch):
  monkeypatch.setattr(run_lock, "_TOUCH_SECONDS", 0.05)

  def take(position):
    if position == 3:
      for _ in range(20):  # a renewal that is under way can replace the first one
        write(tmp_path, token="another")
        time.sleep(0.05)

  with pytest.raises(LockError, match="another run has taken"):
    toy.run(tmp_path, total_steps=24, train_dataset=lambda: toy.ToyData(on_batch=take))
  owner = run_lock._read(tmp_path / LOCK_FILE)
  assert owner is not None and owner.token == "another"
