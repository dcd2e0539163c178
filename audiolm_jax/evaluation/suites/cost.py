"""Measures time and memory of the commands `sample` and `encode`, each in a new process."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.clips import new_pieces
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult
from audiolm_jax.evaluation.statistics import exact
from audiolm_jax.io import audio

COLD_SECONDS = Metric(
  "sample_cold_seconds", "sample, nothing compiled before", Better.LOWER, unit="s"
)
WARM_SECONDS = Metric("sample_warm_seconds", "sample, compiled before", Better.LOWER, unit="s")
SAMPLE_MEMORY = Metric("sample_peak_gigabytes", "sample, peak memory", Better.LOWER, unit="GB")
ENCODE_MEMORY = Metric("encode_peak_gigabytes", "encode, peak memory", Better.LOWER, unit="GB")
ENCODE_SECONDS = Metric("encode_seconds", "encode", Better.LOWER, unit="s")

# A process starts with the peak memory of its parent process. This small launcher is the parent of
# the command, so that the measurement excludes the memory of the evaluation.
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


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the commands `sample` and `encode` with one held-out piece of audio."""
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
  """Resources of one run of a command.

  Attributes:
    seconds: wall time in seconds.
    peak_bytes: peak resident memory in bytes.
    cpu_seconds: user and system time of all threads in seconds.
    faults: number of minor page faults, which do not read from a disk.
  """

  seconds: float
  peak_bytes: int
  cpu_seconds: float
  faults: int


def measure_command(command: Sequence[str], environment: Mapping[str, str]) -> CommandCost:
  """Runs a command and measures its resources.

  Args:
    command: program and arguments.
    environment: variables to add to the environment of this process.

  Raises:
    UserError: the command fails; the message has the last line of its output.
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
      last = lines[-1] if lines else "nothing"
      raise UserError(f"{' '.join(command)} exited with {launched.returncode}; it printed: {last}")
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
  """Measures `sample` with an empty and a filled compilation cache, and `encode` with a long file.

  Args:
    bundle: name or folder of the bundle.
    clip: recording; the prompt is its beginning, and the long file consists of its repetitions.
    sample_rate: sample rate of the clip in Hz.
    prompt_seconds: length of the prompt in seconds.
    duration: length of the new audio in seconds.
    hours: length of the long file in hours.

  Raises:
    UserError: a command fails.
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
  peak = max(cold.peak_bytes, warm.peak_bytes)
  rows = [
    Row(COLD_SECONDS, exact(cold.seconds), floor=40.0, aim=10.0),
    Row(WARM_SECONDS, exact(warm.seconds)),
    Row(SAMPLE_MEMORY, exact(peak / 1e9), floor=1.5, aim=0.8),
    Row(ENCODE_MEMORY, exact(long.peak_bytes / 1e9), f"{hours:g} h", floor=2.0, aim=1.0),
    Row(ENCODE_SECONDS, exact(long.seconds), f"{hours:g} h"),
  ]
  return SuiteResult(rows, {"processors": os.cpu_count()})
