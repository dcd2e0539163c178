"""Measures several samples of one prompt against one sample, with the bundle that ships."""

import time
from typing import Any

from audiolm_jax import bundles
from benchmarks.continuation import prompt

_RATE = 16_000
_NEW_SECONDS = 7.0
_COUNTS = (1, 2, 4, 8)
_REPEATS = 3


def measure() -> dict[str, Any]:
  """Measures seconds by number of samples, in turns, after a call of each that compiles."""
  bundle = bundles.load_bundle("speech_tiny")

  def seconds(count: int) -> float:
    began = time.perf_counter()
    bundle.continue_audio(prompt(), _RATE, num_samples=count, duration=_NEW_SECONDS, seed=0)
    return time.perf_counter() - began

  for count in _COUNTS:
    seconds(count)
  turns = [{count: seconds(count) for count in _COUNTS} for _ in range(_REPEATS)]
  return {
    "bundle": bundle.name,
    "seconds": {str(c): round(sorted(turn[c] for turn in turns)[1], 2) for c in _COUNTS},
  }


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  one = found["seconds"]["1"]
  rows = "\n".join(f"| {n} | {s} | **{s / one:.1f}** |" for n, s in found["seconds"].items())
  return (
    f"Three seconds continued by seven with `{found['bundle']}`, warm, the samples side by "
    f"side.\n\n| samples | s | times one |\n|---:|---:|---:|\n{rows}"
  )
