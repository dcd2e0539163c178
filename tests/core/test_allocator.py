"""The commands tune the memory allocator; importing the package does not."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys

import pytest

from audiolm_jax.core import allocator

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be tuned")

# Allocates and frees 64 MB twice; prints how many pages the second pass faulted in.
SECOND_TIME = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(2):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  memory = libc.malloc(64 << 20)
  ctypes.memset(memory, 1, 64 << 20)
  libc.free(memory)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
AS_A_COMMAND = f"""
import subprocess, sys
from audiolm_jax.core.command_line import run_cli
def main(argv):
  exec({SECOND_TIME!r})
  sys.stdout.flush()
  subprocess.run([sys.executable, "-c", {SECOND_TIME!r}], check=True)
run_cli(main)
"""
PAGES = (64 << 20) // 4096


def run(program, **environment):
  """Returns the output of a Python process without the malloc settings of this one."""
  clean = {k: v for k, v in os.environ.items() if "MALLOC" not in k and k != allocator.VARIABLE}
  clean.pop("GLIBC_TUNABLES", None)
  done = subprocess.run(
    [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def refusal(**environment):
  program = (
    "from audiolm_jax.core import allocator\n"
    "try: allocator.tune_allocator()\n"
    "except allocator.AllocatorError as error: print(error)\n" + SECOND_TIME
  )
  return run(program, **environment).splitlines()


def test_a_command_keeps_freed_memory_and_its_child_process_does_not():
  own, child = map(int, run(AS_A_COMMAND).split())
  assert own < PAGES / 100
  # The kernel may use huge pages, which reduces the number of faults.
  assert child >= (64 << 20) // (2 << 20) > own


def test_the_variable_disables_tuning_for_a_command():
  own, _ = map(int, run(AS_A_COMMAND, AUDIOLM_JAX_ALLOCATOR="off").split())
  assert own >= (64 << 20) // (2 << 20)


def test_importing_the_package_changes_nothing():
  importing = (
    "import audiolm_jax, audiolm_jax.core.errors, audiolm_jax.core.allocator, audiolm_jax.sample\n"
  )
  assert int(run(importing + SECOND_TIME)) >= (64 << 20) // (2 << 20)


@pytest.mark.parametrize(
  ("name", "value"),
  [("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000000"), ("MALLOC_ARENA_MAX", "2")],
)
def test_settings_of_the_user_are_kept(name, value):
  message, faults = refusal(**{name: value})
  assert message == f"set by {name}" and int(faults) >= (64 << 20) // (2 << 20)


def test_tunables_of_other_parts_of_glibc_do_not_disable_tuning():
  assert len(refusal(GLIBC_TUNABLES="glibc.pthread.rseq=1")) == 1


ALLOCATOR = """
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
void *memalign(size_t alignment, size_t size) {
  char *start = mmap(0, size + alignment + 16, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  size_t first = ((size_t)start + 16 + alignment - 1) / alignment * alignment;
  ((size_t *)first)[-1] = size;
  return (void *)first;
}
int posix_memalign(void **found, size_t alignment, size_t size) {
  *found = memalign(alignment, size);
  return 0;
}
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
void *malloc(size_t size) { return memalign(16, size); }
void *calloc(size_t count, size_t size) { return malloc(count * size); }
void free(void *memory) {}
void *realloc(void *memory, size_t size) {
  void *larger = malloc(size);
  if (memory) {
    size_t old = ((size_t *)memory)[-1];
    memcpy(larger, memory, old < size ? old : size);
  }
  return larger;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_another_allocator_is_kept(tmp_path):
  source, library = tmp_path / "other.c", tmp_path / "libother.so"
  source.write_text(ALLOCATOR)
  command = ["cc", "-fno-builtin", "-shared", "-fPIC", "-o", str(library), str(source)]
  subprocess.run(command, check=True)
  message = refusal(LD_PRELOAD=str(library))[0]
  assert message.startswith("another allocator than that of glibc") and str(library) in message


def doctor(**environment):
  """Returns the doctor's check of the allocator; it looks for no bundles."""
  program = (
    "import sys\n"
    "sys.argv = ['doctor', '--json']\n"
    "from audiolm_jax import doctor\nfrom audiolm_jax.core import command_line\n"
    "from audiolm_jax.diagnosis import checks as diagnosis\n"
    "diagnosis.run_checks = lambda _: [diagnosis.check_allocator()]\n"
    "command_line.run_cli(doctor.main, doctor.FLAGS)"
  )
  return json.loads(run(program, **environment))["checks"][0]


def test_the_doctor_reports_a_tuned_allocator():
  check = doctor()
  assert check["status"] == "ok"
  assert re.fullmatch(r"glibc 2\.\d+ keeps freed memory", check["found"])


def test_the_doctor_reports_disabled_tuning_and_how_to_enable_it():
  check = doctor(AUDIOLM_JAX_ALLOCATOR="off")
  assert check["status"] == "absent"
  assert check["found"] == "not tuned: disabled by AUDIOLM_JAX_ALLOCATOR"
  assert check["fix"] == "unset AUDIOLM_JAX_ALLOCATOR for faster operations"


def test_another_c_library_is_reported(monkeypatch):
  monkeypatch.delenv(allocator.VARIABLE, raising=False)
  for name in [name for name in os.environ if "MALLOC" in name or name == "GLIBC_TUNABLES"]:
    monkeypatch.delenv(name)
  monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
  with pytest.raises(allocator.AllocatorError, match="has no glibc"):
    allocator.tune_allocator.__wrapped__()
