"""Measures the speed of tokenizing, the share of its steps, and the storage per hour.

  python -m benchmarks.tokenizing --bundle speech --data ~/recordings

Expect two to five minutes on two cores. Every row is a run of its own over the same clips, after
one that compiles; seconds of audio per second are divided by the cores that JAX may use.
"""

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from audiolm_jax import bundles
from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.data import audio_shards, manifest, token_shards, tokenization
from audiolm_jax.data.manifest import AudioClip
from audiolm_jax.io.files import atomic_write
from benchmarks import machine

FLAGS = flags.FlagValues()
flags.DEFINE_string("bundle", "speech", "Bundle of the tokenizers.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Folder or manifest of audio.", flag_values=FLAGS)
flags.DEFINE_float("minutes", 20.0, "Minutes of audio, spread over the corpus.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 8, "Clips in a batch.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
  "repeats", 3, "Runs of each row; the fastest counts.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_string(
  "output", "benchmarks/results/tokenizing.md", "File for the table.", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
  """Measures, prints and writes the table."""
  del argv
  if not FLAGS.data:
    raise UserError("--data is needed: a folder or manifest of audio")
  compilation_cache.enable()
  bundle = bundles.load_bundle(FLAGS.bundle, stages=())
  clips = _chosen(manifest.list_clips(FLAGS.data), bundle.sample_rate, 60 * FLAGS.minutes)
  waveforms = [manifest.read_clip(clip, bundle.sample_rate) for clip in clips]
  audio_length = sum(map(len, waveforms)) / bundle.sample_rate
  codec, semantic, batch = bundle.codec, bundle.semantic, FLAGS.batch_size
  rows: dict[str, Callable[[], Any]] = {
    "reading and resampling": lambda: [manifest.read_clip(c, bundle.sample_rate) for c in clips],
    "semantic, one by one": lambda: [semantic.tokenize_long(w) for w in waveforms],
    f"semantic, {batch} side by side": lambda: semantic.tokenize_clips(waveforms, batch),
    "codec, one by one": lambda: [codec.encode_long(w) for w in waveforms],
    f"codec, {batch} side by side": lambda: codec.encode_clips(waveforms, batch),
    "all, files to tokens": lambda: _all(bundle, clips),
  }
  seconds = {name: machine.fastest(run, FLAGS.repeats) for name, run in rows.items()}
  text = _table(
    seconds, audio_length, len(clips), bundle, _megabytes_per_hour(bundle, clips, audio_length)
  )
  print(text)
  Path(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
  with atomic_write(FLAGS.output) as file:
    file.write(text.encode())


def _chosen(clips: Sequence[AudioClip], sample_rate: int, seconds: float) -> list[AudioClip]:
  """Returns clips spread over the corpus, of about `seconds` in total."""
  order = np.random.default_rng(0).permutation(len(clips))
  chosen: list[AudioClip] = []
  total = 0.0
  for index in order:
    if total >= seconds:
      break
    chosen.append(clips[index])
    total += len(manifest.read_clip(clips[index], sample_rate)) / sample_rate
  return chosen


def _all(bundle: Any, clips: Sequence[AudioClip]) -> tokenization.ShardTokens:
  return tokenization.tokenize_shard(bundle, audio_shards.ClipShard(tuple(clips)))


def _megabytes_per_hour(bundle: Any, clips: Sequence[AudioClip], audio_length: float) -> float:
  with tempfile.TemporaryDirectory() as folder:
    token_shards.write_shard(folder, _all(bundle, clips).clips, bundle.token_hash)
    return sum(token_shards.shard_files(folder).values()) / audio_length * 3600 / 1e6


def _table(
  seconds: dict[str, float], audio_length: float, count: int, bundle: Any, megabytes: float
) -> str:
  cores = len(os.sched_getaffinity(0))
  # The parts of the last row.
  kind = "one by one" if jax.default_backend() == "cpu" else "side by side"
  parts = [name for name in seconds if kind in name or "reading" in name]
  whole = sum(seconds[name] for name in parts)
  lines = [
    "# Tokenizing",
    "",
    f"`{bundle.name}` (token hash {bundle.token_hash}), {count} clips, {audio_length / 60:.1f} "
    f"minutes of audio, fastest of {FLAGS.repeats} runs.",
    "",
    "| step | audio s / s | audio s / s / core | share |",
    "|---|---|---|---|",
  ]
  for name, taken in seconds.items():
    share = f"{100 * seconds[name] / whole:.0f} %" if name in parts else ""
    lines.append(
      f"| {name} | {audio_length / taken:.0f} | {audio_length / taken / cores:.0f} | {share} |"
    )
  lines += ["", f"Storage: {megabytes:.2f} MB per hour of audio.", "", _machine(cores), ""]
  return "\n".join(lines)


def _machine(cores: int) -> str:
  versions = ", ".join(
    f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy", "soundfile")
  )
  device = jax.devices()[0].device_kind
  return (
    f"Machine: {machine.processor()}, {cores} cores, JAX on {device}; load "
    f"{os.getloadavg()[0]:.1f} at the end. Python {platform.python_version()}, {versions}."
  )


if __name__ == "__main__":
  run_cli(main, FLAGS)
