r"""Measures a bundle: codec, tokens, stages, continuations, detector and cost.

  python -m audiolm_jax.eval --bundle speech --data manifest.jsonl --suite all \
    --output_dir results

`--data` is a folder or a manifest with these splits:

  valid  clips on which the bundle is measured; clips of speakers who are also in `train` are
         excluded, unless all speakers are in `train`
  train  clips for the n-gram tables and the speaker model
  probe  the same sentences by several speakers; rows of the manifest have the field `sentence`

The command writes results.json, results.csv and index.html, a page with the measured values,
pictures and sounds. docs/evaluation.md describes the suites, and the data sets that some suites
need.
"""

import dataclasses
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import check_given, flags, run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.suite import Suite
from audiolm_jax.evaluation.suites import SUITES
from audiolm_jax.io import audio

_PACKAGES = (  # packages whose versions are part of a report
  *("audiolm_jax", "jax", "flax", "numpy", "librosa", "pystoi"),
  *("pesq", "pocketsphinx", "ai-edge-litert", "faster-whisper", "whisper-normalizer"),
  *("speechmos", "onnxruntime", "resemblyzer"),
)

# Defaults of the flags whose fields in `Options` have no default.
_DEFAULTS = {"bundle": "speech", "data": None, "output_dir": None}

_SHOWN = 10  # number of left-out files that --check prints

FLAGS = flags.FlagValues()
flags.DEFINE_list(
  "suite",
  ["all"],
  "all, or some of these, with what they need: "
  + "; ".join(f"{s.name}: {', '.join(need.title for need in s.needs)}" for s in SUITES),
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "check", False, "Read --data, --items and --pairs, print what they have, exit.", flag_values=FLAGS
)


def _define_flag(field: dataclasses.Field[Any]) -> None:
  """Defines the flag of a field of `Options`, with its type, default, minimum and description."""
  default = _DEFAULTS.get(field.name, field.default)
  given = (field.name, default, field.metadata["help"])
  if isinstance(default, Domain):
    flags.DEFINE_enum(field.name, default.value, [*Domain], given[2], flag_values=FLAGS)
  elif isinstance(default, tuple):
    flags.DEFINE_list(field.name, [*default], given[2], flag_values=FLAGS)
  elif isinstance(default, float):
    flags.DEFINE_float(*given, field.metadata["least"], flag_values=FLAGS)
  elif isinstance(default, int):
    flags.DEFINE_integer(*given, field.metadata["least"], flag_values=FLAGS)
  else:
    flags.DEFINE_string(*given, flag_values=FLAGS)


for _field in dataclasses.fields(Options):
  _define_flag(_field)


def main(argv: Sequence[str]) -> None:
  """Runs the suites and writes the results after each; with --check, only checks the data sets."""
  del argv
  chosen = _chosen_suites()
  if FLAGS.check:
    _check()
    return
  check_given(FLAGS, "data", "output_dir")
  options = _options()
  try:
    os.makedirs(options.output_dir, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot create {options.output_dir}: {error.strerror}") from error
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.evaluation import page, report

  bundle = bundles.load_bundle(options.bundle)
  settings = {name: FLAGS[name].value for name in FLAGS}
  results = report.Report(bundle.name, bundle.token_hash, settings, _versions())
  paths = {name: os.path.join(options.output_dir, name) for name in ("results.json", "results.csv")}
  for suite in chosen:
    started = time.monotonic()
    result = results.results[suite.name] = suite.measure(bundle, options)
    results.seconds[suite.name] = time.monotonic() - started
    report.write_json(paths["results.json"], results.as_json())
    report.write_csv(paths["results.csv"], results.rows)
    page.write_page(os.path.join(options.output_dir, "index.html"), results)
    outcome = f"skipped, {result.skip_reason}" if result.skip_reason else "done"
    print(f"{suite.name}: {results.seconds[suite.name]:.0f} s, {outcome}", flush=True)
  if not results.rows:
    raise UserError(f"every suite was skipped; {paths['results.json']} has the reasons")
  print(report.markdown_table(results.rows))
  print(f"wrote {paths['results.json']}")


def _chosen_suites() -> list[Suite]:
  names = [suite.name for suite in SUITES]
  for name in FLAGS.suite:
    if name not in (*names, "all"):
      raise UserError(f"there is no suite {name!r}; the suites are all, {', '.join(names)}")
  return [suite for suite in SUITES if suite.name in FLAGS.suite or "all" in FLAGS.suite]


def _options() -> Options:
  given: dict[str, Any] = {f.name: FLAGS[f.name].value for f in dataclasses.fields(Options)}
  return Options(**given | {"stages": tuple(FLAGS.stages), "domain": Domain(FLAGS.domain)})


def _check() -> None:
  """Prints a summary of each given data set.

  Raises:
    UserError: no data set is given, or a data set or one of its files cannot be read.
  """
  from audiolm_jax.data.manifest import read_corpus
  from audiolm_jax.evaluation import abx, pairs
  from audiolm_jax.evaluation.suites import content

  if not (FLAGS.data or FLAGS.items or FLAGS.pairs):
    raise UserError("--check needs --data, --items or --pairs")
  if FLAGS.data:
    corpus = read_corpus(FLAGS.data)
    clips = corpus.clips
    print(f"{FLAGS.data}: layout {corpus.layout}, {len(corpus.left_out)} audio files left out")
    for name, reason in list(corpus.left_out.items())[:_SHOWN]:
      print(f"  {name}: {reason}")
    for split in sorted({clip.split for clip in clips}):
      of_split = [clip for clip in clips if clip.split == split]
      speakers = len({clip.speaker for clip in of_split} - {None})
      print(f"{FLAGS.data}: {split}: {len(of_split)} clips, {speakers} named speakers")
  if FLAGS.items:
    items = abx.read_items(FLAGS.items)
    read = content.reader_of(
      content.items_folder(FLAGS.items_audio_dir or FLAGS.data), audio.check_readable
    )
    files = sorted({item.file for item in items})
    for file in files:
      read(file)
    print(f"{FLAGS.items}: {len(items)} items in {len(files)} files, none is missing")
  if FLAGS.pairs:
    found = pairs.read_pairs(FLAGS.pairs)
    categories = sorted({category for pair in found for category in pair.categories})
    print(
      f"{FLAGS.pairs}: {len(found)} pairs, none is missing; categories: {', '.join(categories)}"
    )


def _versions() -> dict[str, str]:
  versions = {"python": platform.python_version(), "processor": platform.machine()}
  for package in _PACKAGES:
    try:
      versions[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      versions[package] = "not installed"
  return versions


if __name__ == "__main__":
  run_cli(main, FLAGS)
