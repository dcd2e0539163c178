"""Files that are there whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from audiolm_jax.core.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """A binary file that takes the name `path` only once its block has ended without an error.

  Raises:
    UserError: the folder is missing or closed to us, the disk is full, or `path` is no plain file.
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
  """Raises `UserError` now where `atomic_write(path)` could not even begin; leaves nothing.

  Args:
    inputs: files that are read for what is written; none of them may be replaced by it.
  """
  path = Path(path)
  for given in inputs:
    if os.path.exists(given) and path.exists() and path.samefile(given):
      raise UserError(f"writing {path} would replace {given}, which is read; choose another name")
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
    f"cannot write {path}: {reason}; choose another place or make room or rights there"
  )


def _temporary_name(path: Path) -> Path:
  # Short, so that a name near the file system's limit fails for its own length only.
  return path.parent / f".{secrets.token_hex(6)}.tmp"
