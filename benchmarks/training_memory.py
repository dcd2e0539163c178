"""Computes the memory of each training option of the paper's coarse stage.

  python -m benchmarks.training_memory

Compiles the training step for one CPU device without running it, and writes
benchmarks/results/training_memory.md. Takes a few minutes.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

from audiolm_jax import train
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training.partitioning import Partitioner, unbox
from audiolm_jax.training.program import TrainingProgram
from audiolm_jax.training.run_folder import versions

RESULTS = Path(__file__).parent / "results" / "training_memory.md"
ROWS = 4
GIN = ["MODEL_DIR = 'm'", "MIXTURE_OR_TASK_NAME = 't'"]


def main() -> None:
  """Writes the table."""
  base = train.resolve(["gin_configs/coarse_stage_base.gin"], GIN)[0]["model"].config
  lines = [_HEAD.format(rows=ROWS, length=base.spec.max_length)]
  for name, config in options(base):
    row = measure(config)
    cells = " | ".join(f"{row[column]:.2f}" for column in COLUMNS)
    lines.append(f"| {name} | {cells} |")
    print(lines[-1], file=sys.stderr, flush=True)
  found = versions()
  packages = ", ".join(f"{n} {v}" for n, v in found["packages"].items())
  lines.append(f"\nMade with {packages}; Python {found['python']}; {found['platform']}.\n")
  RESULTS.write_text("\n".join(lines))


COLUMNS = ("parameters", "moments", "average", "arguments", "temporaries")
_HEAD = """# Memory of a training step

The paper's coarse stage (`coarse_stage_base.gin`: 12 layers of width 1024), {rows} sequences of
{length} tokens, one device. GB of 10^9 bytes. Each row changes one thing of the first.

Parameters, moments and average are the state, which stays between steps. Arguments (the state and
the batch) and temporaries (activations, gradients, the new state where it cannot take the old one's
place) are what XLA reports for the step compiled **for a CPU**. An accelerator's compiler fuses and
lays out otherwise, so that its temporaries differ, also relative to each other; on a CPU bfloat16
is in part computed in float32, and its copies are counted here. The state is the same everywhere.

| option | parameters | moments | average | arguments | temporaries |
|---|---|---|---|---|---|"""


def options(base: StageTrainingConfig) -> list[tuple[str, StageTrainingConfig]]:
  """Returns the options with their configurations."""

  def transformer(**values):
    return dataclasses.replace(base, transformer=dataclasses.replace(base.transformer, **values))

  def optimizer(name):
    return dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, name=name))

  return [
    ("as shipped: bfloat16, remat minimal, Adam, no average", base),
    ("float32", transformer(dtype="float32")),
    ("remat none", transformer(remat="none")),
    ("remat full", transformer(remat="full")),
    ("AdamW", optimizer("adamw")),
    ("Adafactor with momentum", optimizer("adafactor")),
    (
      "Adafactor without momentum",
      dataclasses.replace(
        base, optimizer=dataclasses.replace(base.optimizer, name="adafactor", b1=0.0)
      ),
    ),
    ("Muon", optimizer("muon")),
    ("SGD with momentum", optimizer("sgd")),
    ("average of the weights (EMA)", dataclasses.replace(base, ema_decay=0.999)),
    ("2 microbatches", dataclasses.replace(base, microbatches=2)),
    ("4 microbatches", dataclasses.replace(base, microbatches=4)),
  ]


def measure(config: StageTrainingConfig) -> dict[str, float]:
  """Returns the GB of each part of the state, and of the arguments and temporaries of the step."""
  shape = (ROWS, config.spec.max_length)
  ids = ("decoder_input_tokens", "decoder_target_tokens", "decoder_frame_ids")
  batch = {name: np.zeros(shape, np.int32) for name in ids}
  batch["decoder_loss_weights"] = np.ones(shape, np.float32)
  model = StageTrainable(config)
  state = unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
  program = TrainingProgram(model, Partitioner(devices=jax.devices()[:1]), batch)
  memory = program.compiled(0).memory_analysis()
  return {
    "parameters": _gigabytes(state.params),
    "moments": _gigabytes(state.opt_state),
    "average": _gigabytes(state.ema_params),
    "arguments": memory.argument_size_in_bytes / 1e9,
    "temporaries": memory.temp_size_in_bytes / 1e9,
  }


def _gigabytes(tree) -> float:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e9


if __name__ == "__main__":
  main()
