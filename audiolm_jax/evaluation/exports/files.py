"""File names and lists of an export."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.io.files import atomic_write


def names_of(ids: Sequence[str]) -> list[tuple[str, str]]:
  """Returns the name and the key of each file of an export.

  Args:
    ids: ids of the files, which are relative paths.

  Returns:
    A name and a key for each id. The name is the path without suffix and without parts such as `..`
    that leave the folder. The key is the name with underscores instead of white space.

  Raises:
    DataError: two files would have the same key.
  """
  found = []
  taken: dict[str, str] = {}
  for one in ids:
    parts = [p for p in PurePosixPath(one).with_suffix("").parts if p not in ("/", "..", ".")]
    name = "/".join(parts)
    key = re.sub(r"\s+", "_", name)
    if key in taken:
      raise DataError(f"{taken[key]} and {one} would both be named {key}; rename one of them")
    taken[key] = one
    found.append((name, key))
  return found


def write_list(path: str, values: Mapping[str, str]) -> None:
  """Writes a text file with a line for each key and its value, separated by a space."""
  write_lines(path, [f"{key} {value}" for key, value in values.items()])


def write_lines(path: str, lines: Sequence[str]) -> None:
  """Writes lines to a text file."""
  with atomic_write(path) as file:
    file.write("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def make_folder(path: str) -> None:
  """Creates a folder and its parents.

  Raises:
    UserError: the folder cannot be created.
  """
  try:
    Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot create {path}: {error.strerror}") from error
