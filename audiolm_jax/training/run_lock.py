"""A lock that allows only one run at a time in a run folder.

The file `lock.json` identifies the process that trains: user, host, process id and start time. The
process updates the modification time of the file every few seconds, and removes the file at its
end. If a process was killed, its lock is stale, and the next run replaces the file. In the same
container of the same host, the next run replaces the file immediately, because the process does not
exist. On another host, in another container or after a restart of the host, the next run waits
until the file has not been updated for `STALE_SECONDS`.
"""

import contextlib
import dataclasses
import datetime
import getpass
import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from audiolm_jax.core import configs, plain_json
from audiolm_jax.core.errors import ConfigError, UserError

LOCK_FILE = "lock.json"
STALE_SECONDS = 45.0
_TOUCH_SECONDS = 10.0
_POLL_SECONDS = 1.0
# If two processes replace the same stale file, both know after this time which was the last.
_SETTLE_SECONDS = 0.3


class LockError(UserError):
  """Raised when another process trains in a run folder."""


@dataclasses.dataclass(frozen=True)
class Owner:
  """The process that holds a lock.

  Attributes:
    user: name of the user.
    host: name of the host.
    machine: identifier of the host, its boot and the container; process ids are unique within it.
    pid: process id.
    process_start: start time of the process in clock ticks after boot; "" if unknown.
    since: time at which the process took the lock, in ISO format with time zone.
    token: random text that identifies the lock.
  """

  user: str
  host: str
  machine: str
  pid: int
  process_start: str
  since: str
  token: str


class RunLock:
  """A lock that this process holds, and a thread that touches the lock file.

  Args:
    path: the lock file, which already contains `owner`.
    owner: this process.
  """

  def __init__(self, path: Path, owner: Owner):
    self._path, self._owner = path, owner
    self._ended, self._lost = threading.Event(), False
    self._thread = threading.Thread(target=self._touch, name="run lock", daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises `LockError` if another process took the lock while this process was suspended."""
    if self._lost:
      raise LockError(
        f"another run has taken {self._path.parent} while this process did not respond; this run "
        "ends, because both would write the same files"
      )

  def release(self) -> None:
    """Stops the thread and removes the lock file, unless another process has replaced the file."""
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      if _read(self._path) == self._owner:
        self._path.unlink()

  def _touch(self) -> None:
    while not self._ended.wait(_TOUCH_SECONDS):
      # A temporary error of the file system does not end the run.
      with contextlib.suppress(OSError):
        if not self._path.exists() or _read(self._path) == self._owner:
          _write(self._path, self._owner)
        else:
          self._lost = True
          return


@contextlib.contextmanager
def held(model_dir: Path) -> Iterator[RunLock | None]:
  """Holds the lock of a run folder within the context; only process 0 of a run holds the lock.

  Args:
    model_dir: the run folder.

  Yields:
    The lock; None in all other processes.

  Raises:
    LockError: another process trains in the folder.
    UserError: the folder is not writable.
  """
  if jax.process_index() != 0:
    yield None
    return
  lock = RunLock(model_dir / LOCK_FILE, _acquired(model_dir / LOCK_FILE))
  try:
    yield lock
  finally:
    lock.release()


def _acquired(path: Path) -> Owner:
  """Writes the lock file for this process; waits until an existing lock is stale or updated.

  Raises:
    LockError: the process of an existing lock is running.
    UserError: the folder is not writable.
  """
  own, waiting_for = _this_process(), None
  try:
    while not _created(path, own):
      other, touched = _read(path), _modified(path)
      if touched is None:
        continue  # the file was removed in the meantime
      if other is not None and other.machine == own.machine:
        if _is_running(other):
          raise _in_use(path, other)
        return _replaced(path, own)
      if _age(path, touched) > STALE_SECONDS:
        return _replaced(path, own)
      if waiting_for is None:
        waiting_for = touched
        print(f"waiting for up to {STALE_SECONDS:.0f} s: {_words(path, other)}", file=sys.stderr)
      elif touched != waiting_for:
        raise _in_use(path, other)
      time.sleep(_POLL_SECONDS)
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {error.strerror or error}; choose another MODEL_DIR"
    ) from error
  return own


def _created(path: Path, owner: Owner) -> bool:
  try:
    with open(path, "x") as file:
      file.write(json.dumps(configs.to_dict(owner), indent=1))
    return True
  except FileExistsError:
    return False


def _replaced(path: Path, owner: Owner) -> Owner:
  """Replaces a stale lock file and returns `owner`.

  Raises:
    LockError: another process replaced the file at the same time, but later.
  """
  _write(path, owner)
  time.sleep(_SETTLE_SECONDS)
  now = _read(path)
  if now != owner:
    raise _in_use(path, now)
  return owner


def _write(path: Path, owner: Owner) -> None:
  temporary = path.with_name(f".{owner.token}.tmp")
  temporary.write_text(json.dumps(configs.to_dict(owner), indent=1))
  os.replace(temporary, path)


def _read(path: Path) -> Owner | None:
  """Returns the owner in a lock file; None if the file is missing, incomplete or invalid."""
  try:
    return configs.from_dict(Owner, plain_json.parse(path.read_bytes(), 1 << 16))
  except (OSError, ValueError, ConfigError):
    return None


def _modified(path: Path) -> int | None:
  try:
    return path.stat().st_mtime_ns
  except FileNotFoundError:
    return None


def _age(path: Path, touched: int) -> float:
  """Returns the seconds since a file was modified, measured by the clock of its file system.

  Args:
    path: the file.
    touched: modification time of the file in nanoseconds.
  """
  probe = path.with_name(f".{secrets.token_hex(6)}.tmp")
  probe.touch()
  try:
    return (probe.stat().st_mtime_ns - touched) / 1e9
  finally:
    probe.unlink()


def _this_process() -> Owner:
  try:
    user = getpass.getuser()
  except (KeyError, OSError):  # the unknown user of a container
    user = str(os.getuid())
  now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
  pid, token = os.getpid(), secrets.token_hex(6)
  return Owner(user, platform.node(), _machine(), pid, _process_start(pid), now, token)


def _machine() -> str:
  """Returns an identifier within which process ids are unique: host, boot and PID namespace.

  Without Linux, the identifier is the name of the host.
  """
  try:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return platform.node()


def _process_start(pid: int) -> str:
  """Returns the start time of a process in clock ticks after boot; "" if unknown.

  The start time distinguishes the process from a later process with the same id.
  """
  try:
    # The name of the program, in parentheses, may contain spaces.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
  except (OSError, IndexError):
    return ""


def _is_running(owner: Owner) -> bool:
  try:
    os.kill(owner.pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:  # a process of another user
    return True
  return _process_start(owner.pid) == owner.process_start


def _in_use(path: Path, owner: Owner | None) -> LockError:
  return LockError(f"{_words(path, owner)}; wait until it has ended, or choose another MODEL_DIR")


def _words(path: Path, owner: Owner | None) -> str:
  if owner is None:
    return f"{path.parent} is in use by another run, whose {path.name} cannot be read"
  return (
    f"{path.parent} is in use by a run of {owner.user} on {owner.host}, process {owner.pid}, "
    f"since {owner.since}"
  )
