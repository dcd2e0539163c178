"""Measures training steps against the time that their matrix products would take alone.

The models of `gin_configs/*_small.gin`, with batches of a constant, on which no time depends.
"""

import functools
from typing import Any

import jax

from audiolm_jax import train
from benchmarks import machine
from benchmarks.models import UNSET, TrainingStep, constant_batch

_CONFIGS = (
  "semantic_stage_small",
  "coarse_stage_small",
  "parallel_stage_small",
  "units_small",
  "codec_small",
)
_REPEATS = 5


def measure() -> list[dict[str, Any]]:
  """Measures one step, and the forward pass of the evaluation, of each configuration."""
  rate = machine.matmul_rate()
  return [_row(name, rate) for name in _CONFIGS]


def _row(name: str, rate: float) -> dict[str, Any]:
  settings, _ = train.resolve([f"gin_configs/{name}.gin"], UNSET)
  model, batch = settings["model"], constant_batch(settings["train_dataset"])
  training = TrainingStep(model, batch)
  forward = functools.partial(jax.jit(model.eval_step), training.state, batch)
  seconds = machine.fastest(forward, _REPEATS)
  whole = machine.fastest(training.step, _REPEATS)
  products = model.flops_per_step(batch, 0) / rate
  return {
    "configuration": name,
    "forward_ms": round(1e3 * seconds),
    "step_ms": round(1e3 * whole),
    "products_ms": round(1e3 * products),
    "share": round(products / whole, 2),
  }


def text(found: list[dict[str, Any]]) -> str:
  """Returns the result in Markdown."""
  rows = "\n".join(
    f"| `{r['configuration']}` | {r['forward_ms']} | {r['step_ms']} | {r['products_ms']} "
    f"| **{r['share']}** |"
    for r in found
  )
  return f"""One update with the batch of the configuration, beside the time that its matrix \
products would take at the speed of a product of two matrices of 2048 rows. The rest is passes \
over activations, small products and the optimizer.

| configuration | forward, ms | update, ms | products alone, ms | share |
|---|---:|---:|---:|---:|
{rows}"""
