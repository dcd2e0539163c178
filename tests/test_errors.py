"""What a command line says when something of its surroundings is missing."""

import os
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


def test_a_home_folder_in_a_flag_is_expanded(tmp_path):
  program = (
    "from absl import flags\n"
    "from audiolm_jax.errors import run_cli\n"
    "FLAGS = flags.FlagValues()\n"
    "flags.DEFINE_string('output', None, '', flag_values=FLAGS)\n"
    "flags.DEFINE_list('data', [], '', flag_values=FLAGS)\n"
    "run_cli(lambda _: print(FLAGS.output, FLAGS.data), FLAGS)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, "--output=~/t", "--data=~/a,b~/c"],
    cwd=REPO,
    env=os.environ | {"HOME": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip() == f"{tmp_path}/t ['{tmp_path}/a', 'b~/c']", done.stderr
