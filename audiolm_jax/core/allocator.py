"""Makes glibc keep freed memory, so that XLA's buffers on a CPU cause few page faults.

By default, glibc returns large buffers to the kernel when they are freed. The next operation then
causes one page fault per 4 KB of its buffers. The commands of this package call `tune_allocator`
first; an import of the package does not call it.
"""

import ctypes
import functools
import os
import platform

from audiolm_jax.core.errors import UserError

VARIABLE = "AUDIOLM_JAX_ALLOCATOR"
# Parameter numbers of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
# Bytes by which the heap grows. This number is greater than two heaps of 64 MB, so glibc also keeps
# the heaps that threads created earlier.
_TOP_PAD = 256 << 20
_PROBE = 1 << 20
# Environment variables by which users configure malloc. These settings take precedence.
_MALLOC_VARIABLES = (
  "MALLOC_ARENA_MAX",
  "MALLOC_MMAP_MAX_",
  "MALLOC_MMAP_THRESHOLD_",
  "MALLOC_TOP_PAD_",
  "MALLOC_TRIM_THRESHOLD_",
)


class AllocatorError(UserError):
  """Raised when the memory allocator of this process cannot be tuned.

  Attributes:
    fix: instruction that makes tuning possible; empty if no instruction is known.
  """

  def __init__(self, reason: str, fix: str = ""):
    super().__init__(reason)
    self.fix = fix


@functools.cache
def tune_allocator() -> str:
  """Makes glibc keep freed memory until this process ends.

  New threads then share one heap, and heaps do not shrink. Memory that is already allocated is not
  moved, so call this function early. After a successful call, further calls have no effect.
  Programs that this process starts do not inherit the settings.

  Returns:
    The version of glibc.

  Raises:
    AllocatorError: the environment variable AUDIOLM_JAX_ALLOCATOR turns tuning off, the user has
      configured malloc or loaded a different allocator, the C library is not glibc, or glibc
      rejects a setting. The allocator is unchanged, except after a rejected setting.
  """
  _check_environment()
  name, version = platform.libc_ver()
  if platform.system() != "Linux" or name != "glibc":
    raise AllocatorError(f"only glibc's malloc can be tuned; this {platform.system()} has no glibc")
  libc = _load_libc()
  if not _serves_malloc(libc):
    raise AllocatorError(
      "another allocator than that of glibc is loaded "
      f"(LD_PRELOAD={os.environ.get('LD_PRELOAD', '')})",
      "unset LD_PRELOAD unless you chose that allocator",
    )
  for parameter, value in (
    (_M_MMAP_MAX, 0),
    (_M_TRIM_THRESHOLD, -1),  # never
    (_M_TOP_PAD, _TOP_PAD),
    (_M_ARENA_MAX, 1),
  ):
    if libc.mallopt(parameter, value) != 1:
      raise AllocatorError(f"mallopt({parameter}, {value}) of glibc {version} failed")
  return version


def _check_environment() -> None:
  if os.environ.get(VARIABLE, "").lower() in ("off", "0", "none", "false"):
    raise AllocatorError(f"disabled by {VARIABLE}", f"unset {VARIABLE} for faster operations")
  chosen = [name for name in _MALLOC_VARIABLES if name in os.environ]
  if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
    chosen.append("GLIBC_TUNABLES")
  if chosen:
    names = " and ".join(chosen)
    raise AllocatorError(f"set by {names}", f"unset {names} to use the settings of this package")


def _load_libc() -> ctypes.CDLL:
  libc = ctypes.CDLL("libc.so.6")
  libc.mallinfo.restype = _MallInfo
  return libc


class _MallInfo(ctypes.Structure):
  """The result of mallinfo(3); its counters have 32 bits and overflow."""

  _fields_ = [
    (name, ctypes.c_uint32)
    for name in (
      *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
      *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
    )
  ]


def _serves_malloc(libc: ctypes.CDLL) -> bool:
  """Returns whether allocations of this process appear in the statistics of `libc`."""
  process = ctypes.CDLL(None)
  process.malloc.argtypes, process.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
  process.free.argtypes, process.free.restype = [ctypes.c_void_p], None

  def allocated() -> int:
    info = libc.mallinfo()
    return info.uordblks + info.hblkhd

  before = allocated()
  probe = process.malloc(_PROBE)
  grown = (allocated() - before) % 2**32
  process.free(probe)
  return _PROBE <= grown < 2 * _PROBE
