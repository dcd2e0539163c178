"""Measures the time to continue three seconds of audio by seven, in one warm call.

The toy has three stages of 4 layers and width 256 with the paper's crops, of random weights, and a
codec of 16 channels; `speech` is the bundle that ships.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiolm_jax import bundles
from benchmarks import machine
from benchmarks.models import toy_bundle

_RATE = 16_000
_PROMPT_SECONDS = 3.0
_NEW_SECONDS = 7.0


def measure() -> dict[str, Any]:
  """Measures seconds of computation per second of new audio, and the start of a new process."""
  found = {}
  for bundle in (toy_bundle(), bundles.load_bundle("speech")):
    call = lambda bundle=bundle: bundle.continue_audio(  # noqa: E731
      prompt(), _RATE, duration=_NEW_SECONDS, seed=0
    )
    seconds = machine.times(lambda call=call: call().waveform, 3)
    timings = {name: round(value, 2) for name, value in call().timings.items()}
    found[bundle.name] = {
      "compute_over_new_audio": round(sorted(seconds)[1] / _NEW_SECONDS, 3),
      "seconds": timings,
    }
  for name, command in (("file", _FILE), ("sound", _SOUND)):
    cold, warm = start_seconds(command)
    found[f"start_to_{name}_seconds"] = {"cold": round(cold, 1), "compiled": round(warm, 1)}
  return found


# Arguments of Python: write the complete continuation to a file, stream its first piece.
_FILE = ("-m", "audiolm_jax.sample", "--prompt", "PROMPT", "--output", "OUTPUT")
_FILE += ("--duration", "SECONDS")
_STREAM = """
import sys, soundfile, audiolm_jax
from audiolm_jax.core import compilation_cache

compilation_cache.enable()
prompt, rate = soundfile.read(sys.argv[1], dtype="float32")
bundle = audiolm_jax.load_bundle("speech")
settings = dict(duration=float(sys.argv[2]), prompt_audio="none", seed=0)
next(bundle.stream(prompt, rate, **settings))
"""
_SOUND = ("-c", _STREAM, "PROMPT", "SECONDS")


def prompt() -> np.ndarray:
  """Returns three seconds of a voice-like signal: a gliding tone with overtones, in syllables."""
  time_axis = np.arange(round(_PROMPT_SECONDS * _RATE)) / _RATE
  pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time_axis)
  phase = 2 * np.pi * np.cumsum(pitch) / _RATE
  voice = sum(np.sin(k * phase) / k for k in range(1, 20))
  return (0.1 * voice * np.sin(2 * np.pi * 2 * time_axis) ** 2).astype(np.float32)


def start_seconds(command: Sequence[str]) -> tuple[float, float]:
  """Measures complete processes, without and with compiled programs in the cache."""
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "prompt.wav"
    soundfile.write(path, prompt(), _RATE)
    words = {"PROMPT": str(path), "OUTPUT": f"{folder}/out.wav", "SECONDS": str(_NEW_SECONDS)}
    command = [sys.executable, *(words.get(word, word) for word in command)]
    environment = {**os.environ, "AUDIOLM_JAX_CACHE": f"{folder}/cache"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    found = []
    for _ in range(3):
      began = time.perf_counter()
      subprocess.run(command, env=environment, check=True, capture_output=True)
      found.append(time.perf_counter() - began)
  return found[0], min(found[1:])


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  rows = []
  for name in ("toy", "speech"):
    parts = ", ".join(f"{part} {s} s" for part, s in found[name]["seconds"].items())
    rows.append(f"| {name} | **{found[name]['compute_over_new_audio']}** | {parts} |")
  sound, file = found["start_to_sound_seconds"], found["start_to_file_seconds"]
  return (
    "Three seconds continued by seven, batch 1, one warm call of `continue_audio`.\n\n"
    "| bundle | computing over new sound | of it |\n|---|---:|---|\n" + "\n".join(rows) + "\n\n"
    "A new process with the bundle that ships, from its start:\n\n"
    "| | the first time, s | once its programs are compiled, s |\n|---|---:|---:|\n"
    f"| to the first streamed sound | {sound['cold']} | **{sound['compiled']}** |\n"
    f"| to the whole file (`audiolm_jax.sample`) | {file['cold']} | **{file['compiled']}** |"
  )
