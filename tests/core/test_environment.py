"""An environment in which JAX cannot work, or works otherwise, is reported in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiolm_jax.core import environment
from audiolm_jax.core.command_line import exit_code

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize(
  "name, value, words",
  [
    ("JAX_ENABLE_X64", "1", "unset JAX_ENABLE_X64"),
    ("JAX_ENABLE_X64", "perhaps", "unset JAX_ENABLE_X64"),
    ("JAX_THREEFRY_PARTITIONABLE", "0", "unset JAX_THREEFRY_PARTITIONABLE"),
    ("JAX_DEFAULT_PRNG_IMPL", "dice", "JAX_DEFAULT_PRNG_IMPL=dice is unknown to JAX"),
  ],
)
def test_settings_that_change_results_are_refused(monkeypatch, capsys, name, value, words):
  monkeypatch.setenv(name, value)
  assert exit_code(lambda _: pytest.fail("the command ran"), ["command"]) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_settings_of_a_usual_environment_are_accepted(monkeypatch):
  for name, value in (
    ("JAX_ENABLE_X64", "0"),
    ("JAX_THREEFRY_PARTITIONABLE", "true"),
    ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
    ("JAX_PLATFORMS", "cpu"),
  ):
    monkeypatch.setenv(name, value)
    environment.check()


@pytest.mark.parametrize("program", ["doctor", "bundles"])
def test_a_missing_accelerator_is_one_line_with_its_fix(program):
  """In `doctor` it is a line of the table."""
  arguments = {"doctor": [], "bundles": ["list"]}[program]
  done = subprocess.run(
    [sys.executable, "-m", f"audiolm_jax.{program}", *arguments],
    cwd=REPO,
    env=os.environ | {"JAX_PLATFORMS": "cuda"},
    capture_output=True,
    text=True,
  )
  assert "Traceback" not in done.stdout + done.stderr
  if program == "doctor":
    assert done.returncode == 1 and "broken   environment" in done.stdout
    assert "fix: set JAX_PLATFORMS=cpu" in done.stdout
  else:
    assert done.returncode == 2
    assert "error: JAX_PLATFORMS=cuda: " in done.stderr and "JAX_PLATFORMS=cpu" in done.stderr


def test_an_unknown_user_without_a_home_folder_can_use_commands(tmp_path):
  """As in a container that runs under a number without a name."""
  program = (
    "import os, pwd, runpy, sys\n"
    "def unknown(number): raise KeyError(number)\n"
    "pwd.getpwuid = unknown\n"
    "from audiolm_jax.core import compilation_cache\n"
    "from audiolm_jax.training import run_lock\n"
    "compilation_cache.enable()\n"
    "print(run_lock._this_process().user == str(os.getuid()))\n"
    "sys.argv = ['bundles', 'list']\n"
    "runpy.run_module('audiolm_jax.bundles', run_name='__main__')"
  )
  named = ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "AUDIOLM_JAX_CACHE")
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=REPO,
    env={name: value for name, value in os.environ.items() if name not in named},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("True\n") and "piano_tiny" in done.stdout
