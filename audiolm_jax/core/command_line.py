"""Flags, exit codes and one-line error messages, shared by all commands."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from audiolm_jax.core import allocator, environment
from audiolm_jax.core.errors import UserError


def _missing_package(package: str) -> str:
  return (
    f"error: {sys.executable} has no package {package!r}; activate your environment, or install "
    "into this one: pip install -r requirements/sample.txt (requirements.txt for training)"
  )


try:
  from absl import app, flags
except ModuleNotFoundError as error:  # usually because the wrong Python environment is active
  print(_missing_package(error.name or "absl"), file=sys.stderr)
  sys.exit(2)

# The exit code of a program that the signal SIGPIPE ends.
_BROKEN_PIPE = 141

__all__ = [
  "check_given",
  "exit_code",
  "flags",
  "reports_environment",
  "run_cli",
  "takes_arguments",
]

Main = TypeVar("Main", bound=Callable[[Sequence[str]], int | None])


def takes_arguments(main: Main) -> Main:
  """Marks the main function of a command that accepts arguments in addition to flags."""
  vars(main)["takes_arguments"] = True
  return main


def reports_environment(main: Main) -> Main:
  """Marks the main function of a command that also runs in environments where JAX cannot work."""
  vars(main)["reports_environment"] = True
  return main


def run_cli(
  main: Callable[[Sequence[str]], int | None], flag_values: flags.FlagValues | None = None
) -> None:
  """Runs `main` as an absl program and exits with the result of `exit_code`.

  Exits with 2 after an invalid flag and with 0 after --help. First tunes the memory allocator if
  possible; the command `doctor` reports whether it is possible.

  Args:
    main: maps the program's name and the arguments that are not flags to an exit code or None.
    flag_values: the program's absl flags if they are separate from the global flags. With separate
      flags, several programs can be imported into one process.
  """
  with contextlib.suppress(allocator.AllocatorError):
    allocator.tune_allocator()
  _print_any_name()

  def parse(argv: Sequence[str]) -> list[str]:
    if flag_values is not None:
      flags.FLAGS.append_flag_values(flag_values)
      for name in flag_values:
        flags.FLAGS.register_flag_by_module(sys.argv[0], flag_values[name])  # pyright: ignore[reportUnknownMemberType]: absl leaves out the type of the value
    try:
      arguments = flags.FLAGS(argv)
    except flags.Error as error:
      print(f"error: {' '.join(str(error).split())}; see --help", file=sys.stderr)
      sys.exit(2)
    except SystemExit:  # absl ends with 1 after it has printed the help
      sys.exit(0)
    if flag_values is not None:
      flag_values.mark_as_parsed()
      _expand_home(flag_values)
    return arguments

  # JAX logs every accelerator that is absent, at a level that absl prints.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
  app.run(lambda argv: exit_code(main, argv), flags_parser=parse)


def check_given(flag_values: flags.FlagValues, *names: str) -> None:
  """Checks that these flags have values.

  Raises:
    UserError: a flag is None, empty or 0; the message names the first one.
  """
  for name in names:
    if not flag_values[name].value:  # pyright: ignore[reportUnknownMemberType]: absl leaves out the type of the value
      raise UserError(f"--{name} is needed; see --help")


def exit_code(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  """Calls `main` and returns its result, 0 for None, or 2 after an error that the user can fix.

  Such errors include a package that is not installed and an environment in which JAX cannot work.
  A missing module of this project is a bug, and its traceback is shown. If the reader of the output
  ends early, as `head` does, the function returns 141 without a message. After an interrupt, it
  returns 130.
  """
  try:
    return _result(main, argv)
  except BrokenPipeError:
    # Python flushes the output once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE


def _result(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  try:
    if len(argv) > 1 and not getattr(main, "takes_arguments", False):
      raise UserError(f"unexpected argument {argv[1]!r}; every setting is a --flag, see --help")
    if "-" in argv[1:]:
      raise UserError("- is standard input, which is not read; give the name of a file")
    if not getattr(main, "reports_environment", False):
      environment.check()
    code = main(argv) or 0
    sys.stdout.flush()
    return code
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package in ("", "audiolm_jax"):
      raise
    print(_missing_package(package), file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("error: interrupted", file=sys.stderr)
    return 130


def _print_any_name() -> None:
  """Makes standard output escape the characters that it cannot encode.

  A file name can contain bytes that are not text, and the encoding of the locale may lack
  characters of a message.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportUnknownMemberType]: it may be any text file


def _expand_home(flag_values: flags.FlagValues) -> None:
  """Expands `~/` at the start of flag values, because shells do not expand it in `--flag=~/x`."""

  def expanded(value: object) -> object:
    if isinstance(value, list):
      return [expanded(item) for item in cast("list[object]", value)]
    if isinstance(value, str) and (value == "~" or value.startswith("~/")):
      return os.path.expanduser(value)
    return value

  for name in flag_values:
    flag = cast("flags.Flag[object]", flag_values[name])
    flag.value = expanded(flag.value)
