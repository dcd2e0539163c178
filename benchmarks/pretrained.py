"""Compares published models with their implementation in transformers, in turns.

  pip install -r requirements/pretrained.txt
  python -m benchmarks.pretrained

The same random weights and the same sound in both, one clip at a time; both use all cores they may.
An encoder makes the features of its last layer, ours with the nearest of 500 centroids.
"""

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.io.files import atomic_write
from audiolm_jax.pretrained import registry
from audiolm_jax.pretrained.reference import CodecReference, reference_of
from audiolm_jax.pretrained.verify import sound_of_the_check
from audiolm_jax.pretrained.weights import read_published
from benchmarks import machine


class Shape(NamedTuple):
  """A published model in transformers: its kind, and the settings that are not defaults."""

  kind: str
  settings: Mapping[str, Any] = {}


# As in config.json of the published models.
SHAPES = {
  "dac_16khz": Shape("Dac", {"sampling_rate": 16_000, "n_codebooks": 12,
                             "downsampling_ratios": [2, 4, 5, 8], "decoder_hidden_size": 1536}),
  "encodec_24khz": Shape("Encodec"),
  "mimi": Shape("Mimi"),
  "hubert_base": Shape("Hubert"),
  "w2v_bert_2": Shape("Wav2Vec2Bert"),
}  # fmt: skip

FLAGS = flags.FlagValues()
flags.DEFINE_list("models", list(SHAPES), "Models to compare.", flag_values=FLAGS)
flags.DEFINE_integer(
  "repeats", 3, "Repetitions of three seconds of audio.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("rounds", 5, "Turns of each model.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string(
  "output", "benchmarks/results/pretrained.md", "File for the table.", flag_values=FLAGS
)

Turns = tuple[list[float], list[float]]


def main(argv: Sequence[str]) -> None:
  """Measures, prints and writes the table."""
  del argv
  for name in FLAGS.models:
    if name not in SHAPES:
      raise UserError(f"--models {name} is none of {', '.join(SHAPES)}")
  try:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
  except ImportError as error:
    raise UserError(f"{error}; pip install -r requirements/pretrained.txt") from error
  compilation_cache.enable()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  rows: dict[str, Turns] = {}
  for name in FLAGS.models:
    for what, turns in _measured(name, transformers).items():
      rows[f"{name}, {what}"] = turns
      print(f"{name}, {what}: {min(turns[1]) / min(turns[0]):.2f}", flush=True)
  text = _table(rows, f"PyTorch {torch.__version__}, transformers {transformers.__version__}")
  print(text)
  with atomic_write(FLAGS.output) as file:
    file.write(text.encode())


def _measured(name: str, transformers: Any) -> dict[str, Turns]:
  """Returns the seconds of each turn, of this project and of the reference."""
  shape, published_model = SHAPES[name], registry.find_model(name)
  config = getattr(transformers, f"{shape.kind}Config")(**shape.settings)
  model = getattr(transformers, f"{shape.kind}Model")(config).eval()
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    published = read_published(folder)
  reference = reference_of(model)
  if isinstance(reference, CodecReference):
    codec = registry.convert(published_model, published)
    clip = np.tile(sound_of_the_check(codec.spec.sample_rate), FLAGS.repeats)
    codes = codec.encode(clip[None])
    return {
      "encode": _in_turns(lambda: codec.encode(clip[None]), lambda: reference.encode(clip)),
      "decode": _in_turns(lambda: codec.decode(codes), lambda: reference.decode(codes[0])),
    }
  centroids = np.random.default_rng(0).normal(size=(500, config.hidden_size)).astype(np.float32)
  tokenizer = registry.convert(
    published_model, published, layer=config.num_hidden_layers, centroids=centroids
  )
  clip = np.tile(sound_of_the_check(tokenizer.spec.sample_rate), FLAGS.repeats)
  return {
    "features": _in_turns(lambda: tokenizer.tokenize_long(clip), lambda: reference.features(clip))
  }


def _in_turns(ours: Callable[[], Any], theirs: Callable[[], Any]) -> Turns:
  """Returns the seconds of each turn, after a warm-up."""
  found: Turns = ([], [])
  ours(), theirs()
  for _ in range(FLAGS.rounds):
    for run, seconds in zip((ours, theirs), found, strict=True):
      began = time.perf_counter()
      run()
      seconds.append(time.perf_counter() - began)
  return found


def _table(rows: Mapping[str, Turns], versions: str) -> str:
  facts = machine.facts()
  packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
  sound = 3 * FLAGS.repeats
  lines = [
    "# Published models",
    "",
    f"The published shapes with random weights, all levels and layers, {sound} s at batch 1, "
    f"float32. Fastest and middle of {FLAGS.rounds} turns; a ratio above 1 means that ours is "
    "faster.",
    "",
    "| | ours, audio s / s | reference, audio s / s | ratio of the fastest | of the middle |",
    "|---|---:|---:|---:|---:|",
  ]
  for name, (ours, theirs) in rows.items():
    middle = np.median(theirs) / np.median(ours)
    lines.append(
      f"| {name} | {sound / min(ours):.2f} | {sound / min(theirs):.2f} | "
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
