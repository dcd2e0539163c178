"""Makes glibc keep freed memory, so that XLA's buffers on a CPU cost few page faults.

glibc returns every large buffer to the kernel when it is freed, and the next operation faults its
pages in again, 4 KB at a time. The command lines of this package call `tune_allocator` before
anything else; importing the package does not.
"""

import ctypes
import dataclasses
import functools
import os
import platform
from pathlib import Path

from audiolm_jax.errors import UserError

VARIABLE = "AUDIOLM_JAX_ALLOCATOR"
# mallopt(3) numbers these parameters, madvise(2) the advice.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_MADV_HUGEPAGE = 14
_TOP_PAD = 64 << 20  # bytes by which the heap grows at least
_PROBE = 1 << 20
# Settings of the user's own, which stay as they are.
_MALLOC_VARIABLES = (
  "MALLOC_ARENA_MAX",
  "MALLOC_MMAP_MAX_",
  "MALLOC_MMAP_THRESHOLD_",
  "MALLOC_TOP_PAD_",
  "MALLOC_TRIM_THRESHOLD_",
)
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


class AllocatorError(UserError):
  """The memory allocator of this process stays as it is; the message says why.

  Attributes:
    fix: what to do about it; empty if there is nothing.
  """

  def __init__(self, reason: str, fix: str = ""):
    super().__init__(reason)
    self.fix = fix


@dataclasses.dataclass(frozen=True)
class TunedAllocator:
  """How the allocator of this process works now.

  Attributes:
    glibc: version of the C library.
    huge_bytes: size of the part of the heap that consists of huge pages where it is touched.
    without_huge_pages: why `huge_bytes` is 0; else empty.
  """

  glibc: str
  huge_bytes: int
  without_huge_pages: str


@functools.cache
def tune_allocator() -> TunedAllocator:
  """Makes glibc keep freed memory for the rest of this process, in huge pages where it can.

  All threads share one heap, which does not shrink. Memory that was allocated before stays where it
  is, so call this early. Further calls change nothing, and other programs that this process starts
  do not inherit it.

  Returns:
    What was done.
  Raises:
    AllocatorError: the environment variable AUDIOLM_JAX_ALLOCATOR is "off", the user has chosen
      settings of malloc or another allocator, or there is no glibc. Nothing is changed then.
  """
  _check_environment()
  name, version = platform.libc_ver()
  if platform.system() != "Linux" or name != "glibc":
    raise AllocatorError(f"{platform.system()} without glibc, whose malloc alone can be tuned")
  libc = _load_libc()
  if not _serves_malloc(libc):
    raise AllocatorError(
      "malloc is not that of glibc; another allocator is loaded "
      f"(LD_PRELOAD={os.environ.get('LD_PRELOAD', '')})",
      "unset LD_PRELOAD, if the allocator is not your choice",
    )
  for parameter, value in (
    (_M_MMAP_MAX, 0),
    (_M_TRIM_THRESHOLD, -1),  # never
    (_M_TOP_PAD, _TOP_PAD),
    (_M_ARENA_MAX, 1),
  ):
    if libc.mallopt(parameter, value) != 1:
      raise AllocatorError(f"mallopt({parameter}, {value}) of glibc {version} failed")
  reason = _why_no_huge_pages()
  if reason:
    return TunedAllocator(version, 0, reason)
  reserved = _reserve_huge_pages(libc)
  return TunedAllocator(version, reserved, "" if reserved else "the kernel refuses address space")


def _check_environment() -> None:
  if os.environ.get(VARIABLE, "").lower() in ("off", "0", "none", "false"):
    raise AllocatorError(f"off, as {VARIABLE} says", f"unset {VARIABLE} for faster operations")
  chosen = [name for name in _MALLOC_VARIABLES if name in os.environ]
  if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
    chosen.append("GLIBC_TUNABLES")
  if chosen:
    names = " and ".join(chosen)
    raise AllocatorError(
      f"as {names} {'says' if len(chosen) == 1 else 'say'}",
      f"unset {names}, if you prefer the settings of this package",
    )


def _load_libc() -> ctypes.CDLL:
  libc = ctypes.CDLL("libc.so.6")
  size = ctypes.c_size_t
  libc.mallinfo.restype = _MallInfo
  libc.malloc.argtypes, libc.malloc.restype = [size], ctypes.c_void_p
  libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
  libc.madvise.argtypes = [size, size, ctypes.c_int]
  return libc


class _MallInfo(ctypes.Structure):
  """The struct of mallinfo(3); its counters wrap at 32 bits."""

  _fields_ = [
    (name, ctypes.c_uint32)
    for name in (
      *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
      *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
    )
  ]


def _serves_malloc(libc: ctypes.CDLL) -> bool:
  """Whether what this process allocates appears in the statistics of `libc`."""
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


def _why_no_huge_pages() -> str:
  """Empty where the heap can have huge pages."""
  import resource  # not on Windows

  try:
    mode = _HUGE_PAGES.read_text(encoding="ascii")
  except OSError:
    return "this kernel has none"
  if "[never]" in mode:
    return f"{_HUGE_PAGES} says never"
  # Address space is reserved for them, far more than is used.
  limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
  if any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in limits):
    return "address space is limited (ulimit -v, ulimit -d)"
  if _OVERCOMMIT.read_text(encoding="ascii").strip() == "2":
    return f"{_OVERCOMMIT} is 2"
  return ""


def _reserve_huge_pages(libc: ctypes.CDLL) -> int:
  """Grows the heap by address space of half the main memory, and advises huge pages for it.

  The advice holds for address space that the heap has, not for that by which it grows later.

  Returns:
    Bytes; 0 where the kernel refuses them.
  """
  page = os.sysconf("SC_PAGE_SIZE")
  size = os.sysconf("SC_PHYS_PAGES") // 2 * page
  start = libc.malloc(size)
  if not start:
    return 0
  first = -(-start // page) * page
  failed = libc.madvise(first, size - page, _MADV_HUGEPAGE)
  libc.free(start)
  return 0 if failed else size - page
