"""Measures the latency of a streamed continuation, and whether it keeps up with playback."""

import time
from typing import Any

from audiolm_jax import bundles
from benchmarks import continuation
from benchmarks.models import toy_bundle

_RATE = 16_000
_NEW_SECONDS = 20.0


def measure() -> dict[str, Any]:
  """Measures a toy and the shipped bundle, after a warm-up."""
  return {bundle.name: _stream(bundle) for bundle in (toy_bundle(), bundles.load_bundle("speech"))}


def _stream(bundle: Any) -> dict[str, float]:
  """Measures the times of the pieces of twenty new seconds after a prompt of three."""
  settings = {"duration": _NEW_SECONDS, "seed": 0, "prompt_audio": "none"}
  for _ in bundle.stream(continuation.prompt(), _RATE, **settings):
    pass
  began = time.perf_counter()
  arrived, starts = [], [0.0]
  for piece in bundle.stream(continuation.prompt(), _RATE, **settings):
    arrived.append(time.perf_counter() - began)
    starts.append(starts[-1] + len(piece) / bundle.sample_rate)
  return {
    "first_sound_seconds": round(arrived[0], 2),
    # Playback that starts this late never waits for a piece.
    "start_without_pauses_seconds": round(
      max(at - before for at, before in zip(arrived, starts, strict=False)), 2
    ),
    "compute_over_new_audio": round(arrived[-1] / _NEW_SECONDS, 3),
    "pieces": len(arrived),
  }


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  rows = "\n".join(
    f"| {name} | **{r['first_sound_seconds']}** | {r['start_without_pauses_seconds']} "
    f"| {r['compute_over_new_audio']} | {r['pieces']} |"
    for name, r in found.items()
  )
  return f"""`Bundle.stream`, {_NEW_SECONDS:g} s after a prompt of 3 s that is not part of \
the output; warm. Before its first piece, the toy samples the semantic tokens of the first window \
(7 s), the coarse codes of the first fine chunk (3 s) and 64 fine tokens; `speech` samples the \
semantic tokens and all codes of its first window.

| bundle | first sound, s | start that never waits, s | computing over new sound | pieces |
|---|---:|---:|---:|---:|
{rows}"""
