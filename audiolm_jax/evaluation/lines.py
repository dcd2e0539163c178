"""Text files with one record per line."""

import os
from collections.abc import Iterator
from pathlib import Path

from audiolm_jax.core.errors import DataError


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
  """Yields the lines of a file that are not empty, with their numbers from 1.

  Raises:
    DataError: the file cannot be read.
  """
  try:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"cannot read {path}: {error}") from error
  yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
