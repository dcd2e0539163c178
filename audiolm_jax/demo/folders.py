"""The temporary folder of a server, which the next server removes if its own was killed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "audiolm_jax_demo_"
_LOCK = "lock"


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
  """Gives a folder that is removed when the block ends.

  While the block runs, a lock is held that the system releases when the process ends. Folders of
  the same user whose lock is free belong to servers that were killed, and are removed first; not on
  Windows, which has no such locks.
  """
  if os.name != "posix":
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
      yield Path(name)
    return
  import fcntl

  remove_abandoned(Path(tempfile.gettempdir()))
  with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
    folder = Path(name)
    with open(folder / f"{_LOCK}.new", "xb") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      # Under its final name the file is always locked while the process runs.
      os.rename(lock.name, folder / _LOCK)
      yield folder


def remove_abandoned(parent: Path) -> None:
  """Removes the folders of killed servers of this user below `parent`."""
  import fcntl

  for folder in parent.glob(f"{_PREFIX}*"):
    with contextlib.suppress(OSError):  # another server has removed it, or another user owns it
      if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
        continue
      with open(folder / _LOCK, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
