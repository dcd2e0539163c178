"""Time and memory of the commands, each in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.clips import new_pieces
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, exact
from audiolm_jax.io import audio

# A process starts with the peak memory of the one it was forked from; a small one in between, this,
# keeps ours out of the measurement.
_LAUNCHER = """
import json, os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w", encoding="utf-8") as file:
  cpu = usage.ru_utime + usage.ru_stime
  json.dump([time.monotonic() - started, usage.ru_maxrss, cpu, usage.ru_minflt], file)
sys.exit(max(0, os.waitstatus_to_exitcode(status)) or int(os.WIFSIGNALED(status)))
"""


def run(bundle: Any, options: Options) -> SuiteResult:
  """Of one new piece."""
  clip = new_pieces(options, bundle.sample_rate, 1, options.prompt_seconds)[0].waveform
  return cost_suite(
    options.bundle,
    clip,
    bundle.sample_rate,
    prompt_seconds=options.prompt_seconds,
    duration=options.duration,
    hours=options.encode_hours,
  )


@dataclasses.dataclass(frozen=True)
class CommandCost:
  """What one run of a command took.

  Attributes:
    seconds: wall time.
    peak_bytes: largest resident memory.
    cpu_seconds: of all threads, in user and system mode.
    faults: pages that were faulted in without reading a disk.
  """

  seconds: float
  peak_bytes: int
  cpu_seconds: float
  faults: int


def measure_command(command: Sequence[str], environment: Mapping[str, str]) -> CommandCost:
  """Runs a command to its end.

  Args:
    environment: added to this process's.
  Raises:
    UserError: it fails; the last line it wrote is quoted.
  """
  with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
    usage = os.path.join(folder, "usage.json")
    launched = subprocess.run(
      [sys.executable, "-I", "-c", _LAUNCHER, usage, *command],
      stdout=output,
      stderr=subprocess.STDOUT,
      env={**os.environ, **environment},
      check=False,
    )
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    if launched.returncode:
      said = lines[-1] if lines else "nothing"
      raise UserError(f"{' '.join(command)} ended with {launched.returncode}, having said: {said}")
    with open(usage, encoding="utf-8") as file:
      seconds, peak, cpu, faults = json.load(file)
  unit = 1 if sys.platform == "darwin" else 1024
  return CommandCost(seconds, peak * unit, cpu, faults)


def cost_suite(
  bundle: str,
  clip: Float[np.ndarray, " samples"],
  sample_rate: int,
  *,
  prompt_seconds: float,
  duration: float,
  hours: float = 1.0,
) -> SuiteResult:
  """A continuation by the command line with nothing compiled, again with all compiled, and the
  encoding of a file of `hours`.
  """
  with tempfile.TemporaryDirectory() as folder:
    environment = {"AUDIOLM_JAX_CACHE": os.path.join(folder, "cache")}
    prompt, long_file = (os.path.join(folder, name) for name in ("prompt.wav", "long.wav"))
    audio.write_audio(prompt, clip[: round(prompt_seconds * sample_rate)], sample_rate)
    samples = round(hours * 3600 * sample_rate)
    audio.write_audio(long_file, np.resize(clip, samples), sample_rate)
    sample = [sys.executable, "-m", "audiolm_jax.sample", f"--bundle={bundle}"]
    sample += [f"--prompt={prompt}", f"--prompt_seconds={prompt_seconds}", f"--duration={duration}"]
    sample += [f"--output={os.path.join(folder, 'out.wav')}"]
    cold = measure_command(sample, environment)
    warm = measure_command(sample, environment)
    encode = [sys.executable, "-m", "audiolm_jax.encode", long_file, f"--bundle={bundle}"]
    encode += [f"--output={os.path.join(folder, 'tokens.npz')}"]
    long = measure_command(encode, environment)

  def row(figure: str, value: float, floor: float | None = None, aim: float | None = None) -> Row:
    return Row("cost", figure, exact(value), Better.LOWER, floor, aim)

  rows = [
    row("sample, nothing compiled before, s", cold.seconds, 40.0, 10.0),
    row("sample, compiled before, s", warm.seconds),
    row("sample, peak memory, GB", max(cold.peak_bytes, warm.peak_bytes) / 1e9, 1.5, 0.8),
    row(f"encode of {hours:g} h, peak memory, GB", long.peak_bytes / 1e9, 2.0, 1.0),
    row(f"encode of {hours:g} h, s", long.seconds),
  ]
  return SuiteResult(rows, {"processors": os.cpu_count()})
