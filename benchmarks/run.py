"""Runs the speed benchmarks and writes their results.

  python -m benchmarks.run                   what a CPU can do, a quarter of an hour on two cores
  python -m benchmarks.run decoding peers    some
  python -m benchmarks.run gpu               at the paper's size, eight minutes on one GPU

Writes results/NAME.json and RESULTS.md, in which what was left out stays as it was.
"""

import datetime
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from audiolm_jax.core.command_line import run_cli, takes_arguments
from audiolm_jax.core.errors import UserError
from audiolm_jax.io.files import atomic_write
from benchmarks import machine

FLAGS = flags.FlagValues()
# Title and module of each; a module has `measure` and `text`.
BENCHMARKS = {
  "decoding": "Decoding",
  "continuation": "Continuation",
  "samples": "Several samples",
  "streaming": "Streaming",
  "acoustic": "Acoustic stages",
  "codec": "Codec",
  "precision": "Precision of training",
  "peers": "Peers",
  "gpu": "GPU",
}
# Run only by name: they need additional packages or a GPU.
_NAMED = ("peers", "gpu")
FOLDER = Path(__file__).parent


@takes_arguments
def main(argv: Sequence[str]) -> None:
  """Runs the benchmarks in sequence, and writes the results after each one."""
  names = argv[1:] or [name for name in BENCHMARKS if name not in _NAMED]
  unknown = sorted(set(names) - set(BENCHMARKS))
  if unknown:
    raise UserError(f"no benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
  for name in names:
    module = importlib.import_module(f"benchmarks.{name}")
    found = {
      "date": datetime.date.today().isoformat(),
      "machine": machine.facts(),
      "result": module.measure(),
    }
    with atomic_write(FOLDER / "results" / f"{name}.json") as file:
      file.write((json.dumps(found, indent=1) + "\n").encode())
    print(f"{name}: {json.dumps(found['result'])}", flush=True)
    if name == "peers":
      module.save_plot(found["result"], FOLDER / "results" / "time_per_token.png")
    with atomic_write(FOLDER / "RESULTS.md") as file:
      file.write(page().encode())


def page() -> str:
  """Returns all stored results in Markdown."""
  parts = [
    "# Speed\n\nMade by `python -m benchmarks.run`. Each result names the machine it was measured "
    "on, and how fast that read memory and multiplied matrices at the time."
  ]
  for name, title in BENCHMARKS.items():
    path = FOLDER / "results" / f"{name}.json"
    if path.exists():
      found = json.loads(path.read_text(encoding="utf-8"))
      module = importlib.import_module(f"benchmarks.{name}")
      parts += [f"## {title}", module.text(found["result"]), _where(found)]
  return "\n\n".join(parts) + "\n"


def _where(found: dict[str, Any]) -> str:
  facts = found["machine"]
  packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
  return (
    f"<sub>{found['date']}, {facts['machine']}, {facts['cores']} cores, JAX on "
    f"{', '.join(facts['devices'])}: {facts['read_gb_per_s']} GB/s, {facts['matmul_gflops']} "
    f"GFLOP/s, load {facts['load']} before; Python {facts['python']}, {packages}; commit "
    f"{(facts['commit'] or 'unknown')[:7]}.</sub>"
  )


if __name__ == "__main__":
  run_cli(main, FLAGS)
