"""Compares training steps with products in float32 and in bfloat16.

The stages of the `small` recipe. Their states are random, on which no time depends.
"""

from typing import Any

from audiolm_jax import train
from audiolm_jax.core.products import Precision
from benchmarks import machine
from benchmarks.models import UNSET, TrainingStep, constant_batch

_NAMES = ("semantic_stage_small", "parallel_stage_small")
_REPEATS = 5


def measure() -> dict[str, Any]:
  """Measures both precisions of each model in turns, after a step of each that compiles."""
  found: dict[str, Any] = {}
  for name in _NAMES:
    settings, _ = train.resolve([f"gin_configs/{name}.gin"], UNSET)
    batch = constant_batch(settings["train_dataset"])
    steps = {one: TrainingStep(settings["model"], batch, one) for one in Precision}
    runs = {one: step.step for one, step in steps.items()}
    found[name] = machine.medians_in_turns(runs, _REPEATS)
  return found


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  rows = [
    f"| `{name}` | {r['float32']:.2f} | {r['bfloat16']:.2f} | {r['float32'] / r['bfloat16']:.2f} |"
    for name, r in found.items()
  ]
  body = "\n".join(rows)
  return f"""Seconds of a training step of `gin_configs/NAME.gin`, at its batch size, with the \
operands of its products in float32 and in bfloat16.

| model | float32 | bfloat16 | float32 / bfloat16 |
|---|---:|---:|---:|
{body}"""
