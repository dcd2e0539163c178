"""What a command line says when something of its surroundings is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


def run(*arguments):
  # -S leaves site-packages out, as the Python of a machine that nothing was installed into.
  command = [sys.executable, "-S", *arguments]
  return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


@pytest.mark.parametrize("program", ["sample", "train"])
def test_a_python_without_the_packages_is_told_in_one_line_how_to_get_them(program):
  done = run("-m", f"audiolm_jax.{program}", "--help")
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert f"error: {sys.executable} has no package" in done.stderr
  assert "pip install -r requirements/sample.txt" in done.stderr


def test_a_module_of_our_own_that_is_missing_stays_a_traceback():
  program = (
    "from audiolm_jax import errors\nimport sys\nsys.excepthook = errors.say_missing_package\n"
  )
  done = run("-c", program + "import audiolm_jax.no_such_module")
  assert done.returncode == 1 and "Traceback" in done.stderr


def test_importing_the_package_leaves_the_hook_alone():
  assert (
    run("-c", "import sys, audiolm_jax; assert sys.excepthook is sys.__excepthook__").returncode
    == 0
  )
