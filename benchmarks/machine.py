"""Measures the machine: memory bandwidth and speed of matrix products."""

import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from audiolm_jax.training.run_folder import versions

Key = TypeVar("Key", bound=Hashable)

_READ_BYTES = 2**30
_SIDE = 2048


def facts() -> dict[str, Any]:
  """Returns the name, the versions, and the two rates, measured now."""
  found = versions()
  return {
    "machine": processor(),
    "cores": len(os.sched_getaffinity(0)),
    "devices": found["devices"],
    "load": round(os.getloadavg()[0], 1),
    "packages": {name: found["packages"].get(name) for name in ("jax", "jaxlib", "numpy")},
    "python": found["python"],
    "commit": found["git_commit"],
    "read_gb_per_s": round(read_rate() / 1e9, 1),
    "matmul_gflops": round(matmul_rate() / 1e9),
  }


def read_rate() -> float:
  """Returns the bytes per second of a matrix-vector product that exceeds all caches.

  Decoding has the same access pattern.
  """
  width = 4096
  matrix = jnp.ones((_READ_BYTES // 4 // width, width), jnp.float32)
  multiply = jax.jit(lambda m, v: m @ v)
  return _READ_BYTES / fastest(lambda: multiply(matrix, jnp.ones(width)))


def matmul_rate(dtype: str = "float32", side: int = _SIDE) -> float:
  """Returns the FLOP/s of a product of two square matrices."""
  a = jnp.ones((side, side), dtype)
  multiply = jax.jit(lambda a: a @ a)
  return 2 * side**3 / fastest(lambda: multiply(a))


def fastest(run: Callable[[], Any], repeats: int = 5) -> float:
  """Returns the seconds of the fastest run, after one that compiles."""
  return min(times(run, repeats))


def times(run: Callable[[], Any], repeats: int) -> list[float]:
  """Returns the seconds of each run, after one that compiles."""
  _seconds(run)
  return [_seconds(run) for _ in range(repeats)]


def medians_in_turns(runs: Mapping[Key, Callable[[], Any]], repeats: int) -> dict[Key, float]:
  """Returns the median seconds of each run, in turns, after one of each that compiles."""
  for run in runs.values():
    _seconds(run)
  turns = [{key: _seconds(run) for key, run in runs.items()} for _ in range(repeats)]
  return {key: sorted(turn[key] for turn in turns)[repeats // 2] for key in runs}


def _seconds(run: Callable[[], Any]) -> float:
  began = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - began


def processor() -> str:
  """Returns the name of the processor."""
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0]
  except (OSError, IndexError):
    return platform.processor() or platform.machine()
