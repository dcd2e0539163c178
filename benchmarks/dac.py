"""DAC at the published 16 kHz shape beside the implementation in transformers, taking turns.

  pip install -r requirements/pretrained.txt
  python -m benchmarks.dac

The same random weights and the same sound in both, one clip at a time; both use all cores they may.
"""

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from audiolm_jax import compilation_cache
from audiolm_jax.errors import UserError, run_cli
from audiolm_jax.files import atomic_write
from audiolm_jax.pretrained import dac
from audiolm_jax.pretrained.weights import read_published
from benchmarks import machine

FLAGS = flags.FlagValues()
flags.DEFINE_float("seconds", 10.0, "Of sound.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 5, "Turns of each.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string(
  "output", "benchmarks/results/dac.md", "Where the table goes.", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
  """Measures, prints and writes."""
  del argv
  try:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
  except ImportError as error:
    raise UserError(f"{error}; pip install -r requirements/pretrained.txt") from error
  compilation_cache.enable()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  codec, model = _pair(transformers)
  samples = round(FLAGS.seconds * codec.spec.sample_rate)
  waveform = np.random.default_rng(0).normal(0, 0.1, (1, samples)).astype(np.float32)
  codes = codec.encode(waveform)
  sound = torch.from_numpy(np.pad(waveform, ((0, 0), (0, -samples % codec.spec.hop_length))))[None]
  codes_there = torch.from_numpy(codes.astype(np.int64)).transpose(1, 2)
  with torch.inference_mode():
    rows = {
      "encode": _in_turns(lambda: codec.encode(waveform), lambda: model.encode(sound)),
      "decode": _in_turns(
        lambda: codec.decode(codes), lambda: model.decode(audio_codes=codes_there)
      ),
    }
  text = _table(rows, f"PyTorch {torch.__version__}, transformers {transformers.__version__}")
  print(text)
  with atomic_write(FLAGS.output) as file:
    file.write(text.encode())


def _pair(transformers: Any) -> tuple[dac.DacCodec, Any]:
  """Ours and theirs with the same weights."""
  shape = dac.DacConfig()
  model = transformers.DacModel(
    transformers.DacConfig(
      sampling_rate=shape.sample_rate,
      encoder_hidden_size=shape.encoder_channels,
      decoder_hidden_size=shape.decoder_channels,
      downsampling_ratios=list(shape.strides),
      n_codebooks=shape.num_quantizers,
      codebook_size=shape.codebook_size,
      codebook_dim=shape.codebook_dim,
    )
  ).eval()
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    published = read_published(folder)
  return dac.convert(published.config, published.weights), model


def _in_turns(
  ours: Callable[[], Any], theirs: Callable[[], Any]
) -> tuple[list[float], list[float]]:
  """Seconds of each turn, after one that does not count."""
  found: tuple[list[float], list[float]] = ([], [])
  ours(), theirs()
  for _ in range(FLAGS.rounds):
    for run, seconds in zip((ours, theirs), found, strict=True):
      began = time.perf_counter()
      run()
      seconds.append(time.perf_counter() - began)
  return found


def _table(rows: dict[str, tuple[list[float], list[float]]], versions: str) -> str:
  facts = machine.facts()
  packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
  lines = [
    "# DAC",
    "",
    f"The published 16 kHz shape with random weights, {FLAGS.seconds:g} s at batch 1, float32. "
    f"Fastest and middle of {FLAGS.rounds} turns; a ratio above 1 means that ours is faster.",
    "",
    "| | ours, audio s / s | reference, audio s / s | ratio of the fastest | of the middle |",
    "|---|---:|---:|---:|---:|",
  ]
  for name, (ours, theirs) in rows.items():
    middle = np.median(theirs) / np.median(ours)
    lines.append(
      f"| {name} | {FLAGS.seconds / min(ours):.2f} | {FLAGS.seconds / min(theirs):.2f} | "
      f"**{min(theirs) / min(ours):.2f}** | {middle:.2f} |"
    )
  lines += [
    "",
    f"{facts['machine']}, {facts['cores']} cores, load {facts['load']} at the end, "
    f"{facts['read_gb_per_s']} GB/s, {facts['matmul_gflops']} GFLOP/s. Python {facts['python']}, "
    f"{packages}, {versions}.",
    "",
  ]
  return "\n".join(lines)


if __name__ == "__main__":
  run_cli(main, FLAGS)
