"""The clips of a token store that do not fit the corpus any more."""

import os
from typing import NamedTuple

from audiolm_jax.core.errors import DataError


class Outdated(NamedTuple):
  """The clips of a store that do not fit the corpus any more.

  Attributes:
    changed: what changed, by the ids of clips whose files are others now.
    removed: ids of clips that are not in the corpus.
  """

  changed: dict[str, str]
  removed: list[str]

  def check(self, folder: str | os.PathLike[str]) -> None:
    """Raises `DataError` if there are any.

    Args:
      folder: of the store.
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
