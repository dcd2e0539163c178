"""Text files with one record per line."""

import os
from collections.abc import Iterator

from audiolm_jax.core.errors import DataError
from audiolm_jax.io import storage


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
  """Yields the number (from 1) and the text of each line that is not blank.

  Raises:
    DataError: the file cannot be read.
    UserError: the file is not text, or a URL cannot be reached.
  """
  try:
    lines = storage.read_lines(path)
  except OSError as error:
    raise DataError(f"cannot read {path}: {error}") from error
  yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
