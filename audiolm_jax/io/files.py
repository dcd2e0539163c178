"""Writes files atomically: readers see a complete file or no file."""

import contextlib
import os
import secrets
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import BinaryIO

from audiolm_jax.core.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
  """Opens a binary file that is renamed to `path` when the `with` block ends without an error.

  Raises:
    UserError: the folder is missing or not writable, the disk is full, or `path` exists and is not
      a regular file.
  """
  path = Path(path)
  _check_target(path)
  temporary = _temporary_name(path)
  try:
    with open(temporary, "xb") as file:
      yield file
    os.replace(temporary, path)
  except OSError as error:
    raise _cannot_write(path, error) from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)


def check_writable(
  path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()
) -> None:
  """Raises `UserError` if `atomic_write(path)` would fail to create a file.

  Args:
    path: the file that will be written.
    inputs: input files of the program; the error is also raised if `path` is an input file.
  """
  path = Path(path)
  for source in inputs:
    if os.path.exists(source) and path.exists() and path.samefile(source):
      raise UserError(
        f"writing {path} would replace the input file {source}; choose another output name"
      )
  _check_target(path)
  temporary = _temporary_name(path)
  try:
    with open(temporary, "xb"):
      pass
    temporary.unlink()
  except OSError as error:
    raise _cannot_write(path, error) from error


def _check_target(path: Path) -> None:
  try:
    if path.is_dir():
      raise UserError(f"cannot write {path}: it is a folder; give a file name")
    if path.exists() and not path.is_file():
      raise UserError(f"cannot write {path}: it is a device or a pipe; give a file name")
    if not path.parent.exists():
      raise UserError(f"cannot write {path}: the folder {path.parent} does not exist; create it")
    if not path.parent.is_dir():
      raise UserError(f"cannot write {path}: {path.parent} is not a folder")
  except OSError as error:
    raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
  reason = error.strerror or str(error)
  return UserError(
    f"cannot write {path}: {reason}; free disk space, fix the permissions or choose another folder"
  )


def _temporary_name(path: Path) -> Path:
  # The temporary name is short: it is valid even if `path` has the longest name that the file
  # system supports.
  return path.parent / f".{secrets.token_hex(6)}.tmp"
