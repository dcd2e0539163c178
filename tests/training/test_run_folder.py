"""Files in a run folder that describe the run."""

import json
import subprocess

import audiolm_jax
from audiolm_jax.core.products import Precision
from audiolm_jax.training import run_folder


def git(repo, *arguments):
  identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
  subprocess.run(["git", "-C", repo, *identity, *arguments], check=True, capture_output=True)


def test_versions_include_the_commit_and_whether_tracked_files_differ_from_it(tmp_path):
  git(tmp_path, "init")
  (tmp_path / "code.py").write_text("1")
  git(tmp_path, "add", ".")
  git(tmp_path, "commit", "-m", "first")
  state = run_folder._git_state(tmp_path.resolve())
  assert len(state["git_commit"]) == 40 and state["git_dirty"] is False
  (tmp_path / "untracked.txt").touch()
  assert not run_folder._git_state(tmp_path.resolve())["git_dirty"]
  (tmp_path / "code.py").write_text("2")
  assert run_folder._git_state(tmp_path.resolve())["git_dirty"]


def test_code_installed_within_another_repository_has_no_commit(tmp_path):
  git(tmp_path, "init")
  (tmp_path / "code.py").write_text("1")
  git(tmp_path, "add", ".")
  git(tmp_path, "commit", "-m", "first")
  inside = tmp_path / "venv"
  inside.mkdir()
  assert run_folder._git_state(inside.resolve()) == {"git_commit": None, "git_dirty": None}


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert run_folder.versions()["git_commit"] is None


def test_the_files_contain_the_arguments(tmp_path):
  run_folder.make_folder(tmp_path / "run")
  run_folder.write_run_files(
    tmp_path / "run",
    model={"component": "toy"},
    arrays="w  float32[2]\n",
    precision=Precision.BFLOAT16,
    config_text="A = 1\n",
  )
  assert json.loads((tmp_path / "run" / "model.json").read_text()) == {"component": "toy"}
  assert (tmp_path / "run" / "config.gin").read_text() == "A = 1\n"
  assert (tmp_path / "run" / "model-info.txt").read_text() == "w  float32[2]\n"
  versions = json.loads((tmp_path / "run" / "versions.json").read_text())
  assert versions["packages"]["audiolm_jax"] == audiolm_jax.__version__
  assert {"jax", "flax", "numpy"} <= set(versions["packages"])
  assert run_folder.recorded_precision(tmp_path / "run") is Precision.BFLOAT16
