"""The temporary folder of a server; the next server removes the folder of a killed server."""

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
  """Creates a folder, yields its path, and removes the folder when the block ends.

  While the block runs, the process holds a lock on a file in the folder. The system releases the
  lock when the process ends, so folders with a free lock belong to killed servers. Such folders of
  the same user are removed first, except on Windows, which has no such locks.
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
      # Under its final name, the file is locked as long as the process runs.
      os.rename(lock.name, folder / _LOCK)
      yield folder


def remove_abandoned(parent: Path) -> None:
  """Removes the folders of killed servers of this user in `parent`; for POSIX systems only."""
  import fcntl

  for folder in parent.glob(f"{_PREFIX}*"):
    with contextlib.suppress(OSError):  # another server has removed it, or another user owns it
      if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
        continue
      with open(folder / _LOCK, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
