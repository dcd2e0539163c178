"""Measures several samples of one prompt against one sample, with the bundle that ships."""

import functools
from typing import Any

from audiolm_jax import bundles
from benchmarks import machine
from benchmarks.continuation import prompt

_RATE = 16_000
_NEW_SECONDS = 7.0
_COUNTS = (1, 2, 4, 8)
_REPEATS = 3


def measure() -> dict[str, Any]:
  """Measures seconds by number of samples, in turns, after a call of each that compiles."""
  bundle = bundles.load_bundle("speech")

  def sample(count: int) -> object:
    return bundle.continue_audio(prompt(), _RATE, num_samples=count, duration=_NEW_SECONDS, seed=0)

  runs = {str(count): functools.partial(sample, count) for count in _COUNTS}
  medians = machine.medians_in_turns(runs, _REPEATS)
  return {
    "bundle": bundle.name,
    "seconds": {count: round(seconds, 2) for count, seconds in medians.items()},
  }


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  one = found["seconds"]["1"]
  rows = "\n".join(f"| {n} | {s} | **{s / one:.1f}** |" for n, s in found["seconds"].items())
  return (
    f"Three seconds continued by seven with `{found['bundle']}`, warm, the samples side by "
    f"side.\n\n| samples | s | times one |\n|---:|---:|---:|\n{rows}"
  )
