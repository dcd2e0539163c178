"""What goes wrong because of what was given, said in one line with the mend."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any


class UserError(ValueError):
  """Something the user can mend; its message names the thing, the value and the mend."""


class AudioError(UserError):
  """A sound file or waveform that cannot be used."""


class ConfigError(UserError):
  """A configuration that does not fit."""


class BundleError(UserError):
  """A bundle that is missing, damaged or inconsistent."""


class DataError(UserError):
  """Training data that cannot be used."""


class CheckpointError(UserError):
  """A checkpoint that cannot be restored."""


def run_cli(main: Callable[[Sequence[str]], int | None], flag_values: Any = None) -> None:
  """Runs `main` as an absl program and exits as `exit_code` says; a flag that is wrong exits 2.

  The memory allocator is tuned first where it can be; `doctor` says where it is not, and why.

  Args:
    main: takes what is left of the command line, its own name first, and may return an exit code.
    flag_values: absl flags that the program keeps apart from the global ones, so that several
      programs can be imported side by side.
  """
  from absl import app, flags

  from audiolm_jax import allocator

  with contextlib.suppress(allocator.AllocatorError):
    allocator.tune_allocator()

  def parse(argv: Sequence[str]) -> list[str]:
    if flag_values is not None:
      flags.FLAGS.append_flag_values(flag_values)
      for name in flag_values:
        flags.FLAGS.register_flag_by_module(sys.argv[0], flag_values[name])
    try:
      rest = flags.FLAGS(argv)
    except flags.Error as error:
      print(f"error: {' '.join(str(error).split())}; see --help", file=sys.stderr)
      sys.exit(2)
    if flag_values is not None:
      flag_values.mark_as_parsed()
      _expand_home(flag_values)
    return rest

  # JAX tells of every accelerator that is not there; absl's log level would show it.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
  app.run(lambda argv: exit_code(main, argv), flags_parser=parse)


def _expand_home(flag_values: Any) -> None:
  """`~/` at the start of a flag's text becomes the home folder: shells leave `--flag=~/x` alone."""

  def expanded(value: Any) -> Any:
    if isinstance(value, list):
      return [expanded(item) for item in value]
    is_path = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if is_path else value

  for name in flag_values:
    flag = flag_values[name]
    flag.value = expanded(flag.value)


def exit_code(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  """Calls `main`: what it returns, 0 for None, or 2 after a `UserError`, one line on stderr."""
  try:
    if len(argv) > 1 and not getattr(main, "takes_arguments", False):
      raise UserError(f"unexpected argument {argv[1]!r}; every setting is a --flag, see --help")
    return main(argv) or 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("error: interrupted", file=sys.stderr)
    return 130


def say_missing_package(
  kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
  """As `sys.excepthook`: a package that this Python lacks is one line and exit code 2.

  A module of this project's own that is not found stays a traceback, for that is a bug.
  """
  package = (getattr(error, "name", None) or "").partition(".")[0]
  if not isinstance(error, ModuleNotFoundError) or package in ("", "audiolm_jax"):
    sys.__excepthook__(kind, error, traceback)
    return
  print(
    f"error: {sys.executable} has no package {package!r}; activate your environment, or install "
    "into this one: pip install -r requirements/sample.txt (requirements.txt for training)",
    file=sys.stderr,
  )
  sys.exit(2)
