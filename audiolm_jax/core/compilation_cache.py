"""Stores compiled programs on disk, so that the second run of a command starts fast."""

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import warnings
from importlib import metadata
from pathlib import Path

_VARIABLE = "AUDIOLM_JAX_CACHE"


def cache_folder() -> Path | None:
  """Returns the folder of compiled programs, below AUDIOLM_JAX_CACHE or the user's cache folder.

  Returns:
    A folder for this version of jaxlib and this type of processor. None if the cache is off, or if
    the path depends on a home folder and the user has none.

  Raises:
    PackageNotFoundError: jaxlib is not installed.
  """
  chosen = os.environ.get(_VARIABLE, "")
  if is_off():
    return None
  try:
    base = Path(chosen).expanduser() if chosen else _user_cache() / "audiolm_jax"
  except RuntimeError:  # no home folder, for example for an unknown user in a container
    return None
  return base / _platform_name()


def is_off() -> bool:
  """Returns whether AUDIOLM_JAX_CACHE turns the cache off."""
  return os.environ.get(_VARIABLE, "").lower() in ("off", "0", "none", "false")


def enable() -> None:
  """Enables the cache if `cache_folder` returns a folder that can be used safely.

  Call this function before the first compilation. If JAX_COMPILATION_CACHE_DIR is set, JAX's cache
  in that folder is used instead, or disabled if the folder is not safe.
  """
  # When XLA loads a program from the cache, it logs that tuning hints in the program differ from
  # the features of the host. This difference is intended.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  folder, chosen = cache_folder(), os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if chosen is not None:
    _check_chosen(Path(chosen))
  if folder is None or chosen is not None:
    return
  import jax

  # JAX compiles a program again if it cannot read the entry, for example because a killed run left
  # the entry incomplete.
  warnings.filterwarnings("ignore", message="Error .* persistent compilation cache entry")
  with contextlib.suppress(OSError):  # without a writable folder, each run compiles again
    if not _make_private(folder):
      return
    jax.config.update("jax_compilation_cache_dir", str(folder))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types


def _make_private(folder: Path) -> bool:
  """Denies other users access to the folder and returns whether the folder may be used.

  Programs in the folder are executed. A folder or link that another user owns is therefore not
  used, and a folder to which other users could write is emptied.
  """
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  if not hasattr(os, "getuid"):
    return True
  status = folder.stat()
  if {status.st_uid, folder.lstat().st_uid} != {os.getuid()}:
    warnings.warn(
      f"{folder} belongs to another user, so compiled programs are not stored; set {_VARIABLE} to "
      "a folder that you own",
      stacklevel=3,
    )
    return False
  if status.st_mode & 0o077:
    folder.chmod(0o700)
  if status.st_mode & 0o022:
    warnings.warn(f"others could write to {folder}; it is emptied and closed", stacklevel=3)
    for path in folder.iterdir():
      shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
  return True


def _check_chosen(folder: Path) -> None:
  """Disables JAX's own cache if its folder is not safe.

  A folder is not safe if all users can write to it or if its owner is neither this user nor root.
  """
  if not hasattr(os, "getuid") or not folder.is_dir():
    return
  status = folder.stat()
  if status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o002:
    return
  import jax

  warnings.warn(
    f"other users can write to {folder} (JAX_COMPILATION_CACHE_DIR), whose programs would be "
    "executed, so compiled programs are not stored; choose a folder that only you can write to",
    stacklevel=3,
  )
  jax.config.update("jax_enable_compilation_cache", False)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types


def _user_cache() -> Path:
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@functools.cache
def _platform_name() -> str:
  return f"jaxlib-{metadata.version('jaxlib')}-{_processor()}"


def _processor() -> str:
  """Returns a hash of the processor's features.

  A program compiled for one processor may not run on a different processor. Machines with different
  processors can share a home folder.
  """
  features = platform.machine() + platform.processor()
  with contextlib.suppress(OSError):
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    features += next((line for line in text.splitlines() if line.startswith("flags")), "")
  return hashlib.sha256(features.encode()).hexdigest()[:8]
