"""Measures the saving of the tuned memory allocator on a CPU.

  python -m benchmarks.allocator

Two processes run each operation in turns, one of them with AUDIOLM_JAX_ALLOCATOR=off; the commands
are also started in turns. Prints the table of benchmarks/results/allocator.md. Takes ten minutes on
two cores.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from audiolm_jax.core import allocator, compilation_cache
from audiolm_jax.core.command_line import run_cli
from audiolm_jax.evaluation.suites import cost
from audiolm_jax.io import audio
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training.partitioning import unbox
from benchmarks import machine
from benchmarks.continuation import prompt

FLAGS = flags.FlagValues()
flags.DEFINE_integer("turns", 9, "Runs of each operation.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
  "command_turns", 3, "Runs of each command; 0 for none.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_float("encode_hours", 1.0, "Length of the file to encode.", flag_values=FLAGS)
flags.DEFINE_string("operation", None, "Run only this operation.", flag_values=FLAGS)
flags.DEFINE_bool("child", False, "Run --operation once per line of input.", flag_values=FLAGS)


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of an operation or a command.

  Attributes:
    seconds: wall time.
    cpu_seconds: of all threads, in user and system mode.
    faults: pages that were faulted in.
    peak_bytes: peak resident memory of the process.
  """

  seconds: float
  cpu_seconds: float
  faults: int
  peak_bytes: int


def main(argv: Sequence[str]) -> None:
  """Measures each operation, then the commands, and prints a row for each."""
  del argv
  if FLAGS.child:
    _serve(OPERATIONS[FLAGS.operation]())
    return
  facts = machine.facts()
  print(_HEAD, flush=True)
  for name in [FLAGS.operation] if FLAGS.operation else OPERATIONS:
    print(row(name, *operation_in_turns(name, FLAGS.turns)), flush=True)
  if FLAGS.command_turns and not FLAGS.operation:
    for name, off, on in commands_in_turns(FLAGS.command_turns, FLAGS.encode_hours):
      print(row(name, off, on), flush=True)
  print(f"\n<sub>{json.dumps(facts)}</sub>")


_HEAD = """\
| | seconds, off | on | off / on | CPU seconds, off | on | off / on | faults, off | on | peak GB, \
off | on | on / off |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def row(name: str, off: Sequence[Run], on: Sequence[Run]) -> str:
  """Returns a row of the table, with medians."""

  def medians(field: str) -> list[float]:
    return [statistics.median(getattr(run, field) for run in runs) for runs in (off, on)]

  cells = [name]
  for field in ("seconds", "cpu_seconds"):
    before, after = medians(field)
    cells += [f"{before:.4f}", f"{after:.4f}", f"**{before / after:.2f}**"]
  cells += [f"{faults:.0f}" for faults in medians("faults")]
  before, after = medians("peak_bytes")
  cells += [f"{before / 1e9:.3f}", f"{after / 1e9:.3f}", f"{after / before:.2f}"]
  return f"| {' | '.join(cells)} |"


def operation_in_turns(name: str, turns: int) -> tuple[list[Run], list[Run]]:
  """Returns runs of an operation without and with the tuned allocator."""
  command = [sys.executable, "-m", "benchmarks.allocator", f"--operation={name}", "--child"]
  children = [
    subprocess.Popen(
      command,
      env=os.environ | {allocator.VARIABLE: value},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for value in ("off", "on")
  ]
  runs: list[list[Run]] = [[], []]
  for _ in range(turns):
    for child, found in zip(children, runs, strict=True):
      assert child.stdin and child.stdout
      print(file=child.stdin, flush=True)
      found.append(Run(**json.loads(child.stdout.readline())))
  for child in children:
    child.communicate()
  return runs[0], runs[1]


def _serve(operation: Callable[[], Any]) -> None:
  """Runs `operation` for each line of input and prints its cost.

  Two warm-up runs are not counted: the first compiles, and in the second memory still grows.
  """
  for _ in range(2):
    jax.block_until_ready(operation())
  for _ in sys.stdin:
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    jax.block_until_ready(operation())
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    faults = after.ru_minflt - before.ru_minflt
    print(json.dumps(dataclasses.asdict(Run(seconds, cpu, faults, _peak_bytes()))), flush=True)


def _peak_bytes() -> int:
  """Returns the peak memory of this process; `ru_maxrss` would include its parent."""
  lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
  return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _relu() -> Callable[[], Any]:
  x = jnp.ones((8, 512, 2048))
  relu = jax.jit(jax.nn.relu)
  return lambda: relu(x)


def _product() -> Callable[[], Any]:
  a, b = jnp.ones((4096, 512), jnp.bfloat16), jnp.ones((512, 2048), jnp.bfloat16)
  multiply = jax.jit(lambda a, b: a @ b)
  return lambda: multiply(a, b)


def _training(
  rows: int, spec: stages.AutoregressiveSpec, shape: TransformerConfig
) -> Callable[[], Any]:
  """Returns a training step of 512 tokens per row, which does not update the state."""
  model = StageTrainable(
    StageTrainingConfig(spec, dataclasses.replace(shape, dropout_rate=0.0, dtype="float32"))
  )
  tokens = np.random.default_rng(0).integers(4, 60, (rows, 512), np.int32)
  batch: dict[str, Any] = dict.fromkeys(("decoder_input_tokens", "decoder_target_tokens"), tokens)
  batch["decoder_frame_ids"] = np.zeros_like(tokens)
  batch["decoder_loss_weights"] = np.ones(tokens.shape, np.float32)
  batch, key = jax.device_put(batch), jax.random.key(1)
  step = jax.jit(model.train_step, donate_argnums=0)
  state = unbox(jax.jit(model.init)(jax.random.key(0), batch))

  def run() -> Any:
    nonlocal state
    state, metrics = step(state, batch, key)
    return metrics

  return run


def _tiny_stage() -> Callable[[], Any]:
  shape = TransformerConfig(num_layers=4, dim=256, num_heads=4, mlp_dim=1024)
  return _training(8, stages.semantic_stage(num_clusters=64), shape)


def _wide_stage() -> Callable[[], Any]:
  shape = TransformerConfig(num_layers=6, dim=512, num_heads=8, mlp_dim=2048)
  return _training(8, stages.coarse_stage(), shape)


OPERATIONS = {
  "relu of 8 x 512 x 2048": _relu,
  "bfloat16 product 4096 x 512 x 2048": _product,
  "training step, 4 layers of 256": _tiny_stage,
  "training step, 6 layers of 512": _wide_stage,
}


def commands_in_turns(turns: int, hours: float) -> Iterator[tuple[str, list[Run], list[Run]]]:
  """Yields complete runs of `sample` for one and for eight samples, and of `encode`."""
  compilation_cache.enable()
  with tempfile.TemporaryDirectory() as folder:
    spoken, long = (str(Path(folder, name)) for name in ("prompt.wav", "long.wav"))
    audio.write_audio(spoken, prompt(), 16_000)
    audio.write_audio(long, np.resize(prompt(), round(hours * 3600 * 16_000)), 16_000)
    python = [sys.executable, "-m"]
    sample = [*python, "audiolm_jax.sample", f"--prompt={spoken}", f"--output={folder}/out.wav"]
    encode = [*python, "audiolm_jax.encode", long, f"--output={folder}/out.npz"]
    for name, command in (
      ("`sample`", sample),
      ("`sample --num_samples=8`", [*sample, "--num_samples=8"]),
      (f"`encode` of {hours:g} h", encode),
    ):
      cost.measure_command(command, {})  # compiles
      runs: list[list[Run]] = [[], []]
      for _ in range(turns):
        for value, found in zip(("off", "on"), runs, strict=True):
          took = cost.measure_command(command, {allocator.VARIABLE: value})
          found.append(Run(took.seconds, took.cpu_seconds, took.faults, took.peak_bytes))
      yield name, *runs


if __name__ == "__main__":
  run_cli(main, FLAGS)
