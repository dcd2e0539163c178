"""Compiles the paper's training steps for TPU slices and writes a table of their demands.

  python -m benchmarks.tpu_compile

Needs the extra `tpu`, but no TPU; takes minutes for each cell on two cores. Every cell updates the
table `benchmarks/results/tpu_compile.md`, which keeps the cells that `--models` and `--topologies`
exclude.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from audiolm_jax.core.command_line import run_cli

FLAGS = flags.FlagValues()
STAGE_1B = "gin_configs/models/stage_1b.gin"
MODELS = {
  "semantic_stage_base": (),
  "coarse_stage_base": (),
  "fine_stage_base": (),
  "coarse_stage_1b": ("gin_configs/coarse_stage_base.gin", STAGE_1B),
  "semantic_encoder_xl": (),
  "codec_base": (),
}
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v6e:16x16", "v4:8x8x4")
SEQUENCES_PER_CHIP = 4
COMPILE_SECONDS = 90
MEMORY_SHARE = 0.8
CYCLE_RATIO = 1.05
RESULTS = Path(__file__).parent / "results"

flags.DEFINE_list("models", list(MODELS), "Rows of the table.", flag_values=FLAGS)
flags.DEFINE_list("topologies", list(TOPOLOGIES), "Columns of the table.", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
  """Compiles each cell in a separate process."""
  del argv
  cells = _read()
  for model in FLAGS.models:
    for topology in FLAGS.topologies:
      cells[f"{model} {topology}"] = measure(model, topology)
      _write(cells)
      print(f"{model} {topology}: {cells[f'{model} {topology}']}", flush=True)


def measure(model: str, topology: str) -> dict[str, object]:
  """Returns one cell, or {"failed": reason}."""
  files = MODELS[model] or (f"gin_configs/{model}.gin",)
  done = subprocess.run(
    [
      *(sys.executable, "-m", "audiolm_jax.aot_compile", "--json", f"--topology={topology}"),
      *(f"--gin_file={file}" for file in files),
      f"--sequences_per_chip={SEQUENCES_PER_CHIP}",
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  rows = [line for line in done.stdout.splitlines() if line.startswith("{")]
  return json.loads(rows[0]) if rows else {"failed": done.stderr.strip().splitlines()[-1]}


def table(cells: dict[str, dict]) -> str:
  """Returns the page in Markdown."""
  lines = [
    "# Training steps compiled for TPU slices",
    "",
    f"{SEQUENCES_PER_CHIP} sequences a chip; compiled on {os.cpu_count()} CPU cores without a TPU "
    f"by jax {_version('jax')} and libtpu {_version('libtpu')}. Memory is per chip. Cycles are the "
    "compiler's estimate against that for v5e:4x4; do not compare them between generations of "
    "chips. `python -m benchmarks.tpu_compile` makes this page.",
    "",
    "| model | slice | mesh | arguments, GiB | temporaries, GiB | of memory | compiled in, s | "
    "cycles | exchanged, MiB | largest exchanged | largest parameter |",
    "|---|---|---|---:|---:|---:|---:|---:|---:|---|---|",
  ]
  for name, cell in sorted(cells.items(), key=_order):
    model, topology = name.split()
    if "failed" in cell:
      lines.append(f"| {model} | {topology} | {cell['failed']} |" + " |" * 8)
      continue
    first = cells.get(f"{model} {TOPOLOGIES[0]}", {}).get("cycles")
    ratio = f"{cell['cycles'] / first:.3f}" if first and topology.startswith("v5e") else ""
    lines.append(
      f"| {model} | {topology} | {cell['mesh']} | {cell['arguments'] / 2**30:.2f} | "
      f"{cell['temporaries'] / 2**30:.2f} | {cell['memory_share']:.0%} | "
      f"{cell['compile_seconds']:.0f} | {ratio} | {cell['collective_bytes'] / 2**20:,.0f} | "
      f"{cell['largest_operand']} | {cell['largest_parameter']} |"
    )
  lines += [
    "",
    f"Asked for: at most {COMPILE_SECONDS} s to compile and {MEMORY_SHARE:.0%} of the memory; no "
    "array exchanged that is larger than the largest parameter; no array in memory with the length "
    "of a long sequence twice; on v5e:16x16 no more arguments than on v5e:4x4, and at most "
    f"{CYCLE_RATIO} of its cycles. Not kept:",
    "",
  ]
  passed = [
    f"- {name}: {sentence}"
    for name, cell in sorted(cells.items(), key=_order)
    for sentence in _passed(cell, cells.get(f"{name.split()[0]} {TOPOLOGIES[0]}", {}))
  ]
  return "\n".join([*lines, *(passed or ["- nothing"]), ""])


def _passed(cell: dict, first: dict) -> list[str]:
  """Returns the limits that a cell exceeds."""
  if "failed" in cell:
    return ["not compiled"]
  same_chip = first.get("topology", "").split(":")[0] == cell["topology"].split(":")[0]
  found = []
  if cell["compile_seconds"] > COMPILE_SECONDS:
    found.append(f"{cell['compile_seconds']:.0f} s to compile")
  if cell["memory_share"] > MEMORY_SHARE:
    found.append(f"{cell['memory_share']:.0%} of the memory")
  if cell["largest_operand_bytes"] > cell["largest_parameter_bytes"]:
    found.append(f"{cell['largest_operand']} is exchanged")
  found += [f"{square} is in memory" for square in cell["squares"]]
  if same_chip and cell["arguments"] > first["arguments"]:
    found.append("more arguments than on fewer chips")
  if same_chip and cell["cycles"] > CYCLE_RATIO * first["cycles"]:
    found.append(f"{cell['cycles'] / first['cycles']:.2f} of the cycles on fewer chips")
  return found


def _order(item: tuple[str, dict]) -> tuple[int, int]:
  model, topology = item[0].split()
  return list(MODELS).index(model), TOPOLOGIES.index(topology)


def _read() -> dict[str, dict]:
  path = RESULTS / "tpu_compile.json"
  return json.loads(path.read_text()) if path.exists() else {}


def _write(cells: dict[str, dict]) -> None:
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / "tpu_compile.json").write_text(json.dumps(cells, indent=1) + "\n")
  (RESULTS / "tpu_compile.md").write_text(table(cells))


def _version(package: str) -> str:
  return importlib.metadata.version(package)


if __name__ == "__main__":
  run_cli(main, FLAGS)
