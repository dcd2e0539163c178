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
  """Creates a folder, yields its path, and removes the folder when the `with` block ends.

  Inside the block, the process holds a lock on a file in the folder. The system releases the lock
  when the process ends, so a folder without a held lock belongs to a killed server. Such folders
  are removed first if they belong to this user. Windows has no such locks, so no folders are
  removed there.
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
  """Removes folders in `parent` that this user's killed servers left; for POSIX systems only."""
  import fcntl

  for folder in parent.glob(f"{_PREFIX}*"):
    with contextlib.suppress(OSError):  # another server has removed it, or another user owns it
      if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
        continue
      with open(folder / _LOCK, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
