"""Checks for clips of a token store whose files in the corpus have changed or were removed."""

import os
from typing import NamedTuple

from audiolm_jax.core.errors import DataError


class Outdated(NamedTuple):
  """The clips of a token store whose files have changed or are no longer in the corpus.

  Attributes:
    changed: description of the change, by clip id; also for files that cannot be read.
    removed: ids of the clips that are no longer in the corpus.
  """

  changed: dict[str, str]
  removed: list[str]

  def check(self, folder: str | os.PathLike[str]) -> None:
    """Raises an error if the store has outdated clips.

    Args:
      folder: folder of the store, for the error message.

    Raises:
      DataError: a clip has changed or was removed.
    """
    found: list[str] = []
    if self.changed:
      name, how = next(iter(self.changed.items()))
      found.append(
        f"{len(self.changed)} clips of {folder} have changed since they were tokenized, such as "
        f"{name} ({how})"
      )
    if self.removed:
      found.append(
        f"{len(self.removed)} clips of {folder} are not in the corpus any more, such as "
        f"{self.removed[0]}"
      )
    if found:
      raise DataError(
        f"{', and '.join(found)}; restore them, choose another --output_dir, or give "
        "--replace_changed, which tokenizes changed clips again and drops removed ones"
      )
