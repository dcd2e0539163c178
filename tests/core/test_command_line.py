"""Commands report a missing package in one line."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiolm_jax.core.command_line import check_given, exit_code, flags, takes_arguments
from audiolm_jax.core.errors import UserError

REPO = Path(__file__).parents[2]


def run(*arguments):
  # -S omits site-packages, so no package is installed.
  command = [sys.executable, "-S", *arguments]
  return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


@pytest.mark.parametrize("program", ["sample", "doctor"])
def test_a_python_without_the_packages_prints_how_to_install_them(program):
  done = run("-m", f"audiolm_jax.{program}", "--help")
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert f"error: {sys.executable} has no package" in done.stderr
  assert "pip install -r requirements/sample.txt" in done.stderr


def test_help_is_a_success():
  done = subprocess.run(
    [sys.executable, "-m", "audiolm_jax.decode", "--help"], cwd=REPO, capture_output=True, text=True
  )
  assert done.returncode == 0 and "--bundle" in done.stdout and not done.stderr


def importing(module):
  """Runs a command that imports `module`."""
  return exit_code(lambda _: importlib.import_module(module) and None, ["command"])


def test_a_package_that_main_cannot_import_is_reported(capsys):
  assert importing("no_such_package.module") == 2
  assert "has no package 'no_such_package'" in capsys.readouterr().err


def test_a_missing_module_of_this_project_keeps_its_traceback():
  with pytest.raises(ModuleNotFoundError):
    importing("audiolm_jax.no_such_module")


def test_the_first_flag_without_a_value_is_named():
  values = flags.FlagValues()
  for name in ("data", "output", "name"):
    flags.DEFINE_string(name, None, "", flag_values=values)
  values(["program", "--data=in", "--output="])
  check_given(values, "data")
  with pytest.raises(UserError, match="--output is needed"):
    check_given(values, "data", "output", "name")


def test_standard_input_as_a_file_is_refused_by_its_name(capsys):
  @takes_arguments
  def main(argv):
    raise AssertionError(argv)

  assert exit_code(main, ["detect", "-"]) == 2
  message = "error: - is standard input, which is not read; give the name of a file\n"
  assert capsys.readouterr().err == message


def test_a_home_folder_in_a_flag_is_expanded(tmp_path):
  program = (
    "from absl import flags\n"
    "from audiolm_jax.core.command_line import run_cli\n"
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


@pytest.mark.parametrize("lines", [3, 100_000])
def test_a_reader_that_ends_early_ends_the_command_without_a_message(lines):
  program = (
    "import time\n"
    "from audiolm_jax.core.command_line import run_cli\n"
    f"run_cli(lambda _: [print('x' * 99, flush=i == 0) or (i or time.sleep(1)) "
    f"for i in range({lines})] and None)"
  )
  done = subprocess.run(
    ["bash", "-o", "pipefail", "-c", '"$0" -c "$1" | head -n 1', sys.executable, program],
    cwd=REPO,
    capture_output=True,
    text=True,
  )
  assert done.stderr == "" and done.stdout == "x" * 99 + "\n"
  assert done.returncode == 141


def test_names_and_messages_that_the_locale_cannot_encode_are_escaped():
  program = (
    "from audiolm_jax.core.command_line import run_cli\n"
    "run_cli(lambda _: print('caf\\udce9.wav', 'gr\\u00fc\\u00df'))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=REPO,
    env=os.environ | {"PYTHONIOENCODING": "ascii"},
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip() == r"caf\udce9.wav gr\xfc\xdf", done.stderr
  assert done.returncode == 0
