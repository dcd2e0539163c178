"""Keeps compiled programs on disk, so that a command's second run starts fast."""

import contextlib
import functools
import hashlib
import os
import platform
import warnings
from importlib import metadata
from pathlib import Path

_VARIABLE = "AUDIOLM_JAX_CACHE"


def cache_folder() -> Path | None:
  """Where compiled programs are kept: below AUDIOLM_JAX_CACHE or the user's cache folder.

  Returns:
    A folder for this jaxlib and this kind of processor; None where AUDIOLM_JAX_CACHE is "off", or
    where the user has no home folder.
  """
  chosen = os.environ.get(_VARIABLE, "")
  if chosen.lower() in ("off", "0", "none", "false"):
    return None
  try:
    base = Path(chosen).expanduser() if chosen else _user_cache() / "audiolm_jax"
  except RuntimeError:  # no home folder, as for the unknown user of a container
    return None
  return base / _kind()


def enable() -> None:
  """Turns the cache on, before the first compilation, unless JAX's own variable already has."""
  # XLA's loader reports, at every hit, tuning hints that differ from the host's by design.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  folder = cache_folder()
  if folder is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  import jax

  # An entry that a killed run left half written is compiled anew; nobody needs to know.
  warnings.filterwarnings("ignore", message="Error .* persistent compilation cache entry")
  with contextlib.suppress(OSError):  # a home that cannot be written costs time, nothing else
    if not _make_private(folder):
      return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _make_private(folder: Path) -> bool:
  """Makes the folder closed to other users; whether it is.

  What lies in it is run, so a folder that another user owns is not used.
  """
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  if not hasattr(os, "getuid"):
    return True
  status = folder.stat()
  if status.st_uid != os.getuid():
    warnings.warn(
      f"{folder} belongs to another user, so no compiled programs are kept; set {_VARIABLE} to a "
      "folder of your own",
      stacklevel=3,
    )
    return False
  if status.st_mode & 0o077:
    folder.chmod(0o700)
  return True


def _user_cache() -> Path:
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@functools.cache
def _kind() -> str:
  return f"jaxlib-{metadata.version('jaxlib')}-{_processor()}"


def _processor() -> str:
  """A program compiled for one processor may not run on another that shares the home folder."""
  features = platform.machine() + platform.processor()
  with contextlib.suppress(OSError):
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    features += next((line for line in text.splitlines() if line.startswith("flags")), "")
  return hashlib.sha256(features.encode()).hexdigest()[:8]
