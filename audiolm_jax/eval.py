"""Measures a bundle: codec, tokens and what they keep, stages, continuations, its detector, cost.

  python -m audiolm_jax.eval --bundle speech_tiny --data manifest.jsonl --suite all \
    --output_dir results

`--data` is a folder or a manifest with the splits `valid` (what is measured on; speakers who are
also in `train` are left out where others are there), `train` (for the n-gram tables and the speaker
model) and `probe` (the same sentences, field `sentence`, by several speakers). Writes results.json,
results.csv and index.html, one page with figures, pictures and sound. docs/evaluation.md describes
the suites and the data sets that some of them need.
"""

import dataclasses
import importlib
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.io import audio

SUITES = (
  "codec",
  "semantic",
  "content",
  "tokens",
  "likelihood",
  "continuation",
  "resynthesis",
  "piano",
  "speaker",
  "detection",
  "cost",
)

_PACKAGES = (  # whose versions a report names
  *("audiolm_jax", "jax", "flax", "numpy", "librosa", "pystoi"),
  *("pesq", "pocketsphinx", "ai-edge-litert", "faster-whisper", "whisper-normalizer"),
  *("speechmos", "onnxruntime", "resemblyzer"),
)

FLAGS = flags.FlagValues()
flags.DEFINE_string("bundle", "speech_tiny", "Name or folder of a bundle.", flag_values=FLAGS)
flags.DEFINE_list("suite", ["all"], f"all, or some of {', '.join(SUITES)}.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Folder or manifest; its valid split.", flag_values=FLAGS)
flags.DEFINE_string(
  "train_data",
  None,
  "Folder or manifest of the training data; --data by default.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "probe_data", None, "Manifest with the probe split; --data by default.", flag_values=FLAGS
)
flags.DEFINE_string(
  "token_store", None, "Tokens that the stages were trained on, by cache_tokens.", flag_values=FLAGS
)
flags.DEFINE_string(
  "lyra_dir", None, "Folder of Lyra's TFLite models, for the suite codec.", flag_values=FLAGS
)
flags.DEFINE_string(
  "items", None, "ABX items in the Libri-Light format, for the suite content.", flag_values=FLAGS
)
flags.DEFINE_string(
  "items_audio_dir", None, "Folder of the items' files; --data by default.", flag_values=FLAGS
)
flags.DEFINE_string(
  "pairs",
  None,
  "Pairs for the suite likelihood: folder of ZeroSpeech 2021 or SALMon, or .jsonl manifest.",
  flag_values=FLAGS,
)
flags.DEFINE_list("stages", [], "Whose likelihoods; all by default.", flag_values=FLAGS)
flags.DEFINE_string(
  "asr_model",
  None,
  "Whisper model for word errors: folder (CTranslate2), size such as base.en, or hub name.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "asr_language", Options.asr_language, "Language that --asr_model expects.", flag_values=FLAGS
)
flags.DEFINE_string(
  "other_bundle",
  None,
  "Whose samples the detector is shown too; whose piano is compared.",
  flag_values=FLAGS,
)
flags.DEFINE_string("output_dir", None, "Folder for the results.", flag_values=FLAGS)
flags.DEFINE_bool(
  "check",
  False,
  "Read --data, --items and --pairs, say what is there, and leave.",
  flag_values=FLAGS,
)
flags.DEFINE_enum("domain", Options.domain.value, [*Domain], "What is heard.", flag_values=FLAGS)
for _name, _least, _text in (
  ("max_clips", 1, "Pieces to reconstruct."),
  ("max_continuations", 1, "Prompts to continue."),
  ("max_speaker_clips", 2, "Clips for the speaker model."),
  ("samples_per_prompt", 2, "Continuations of a prompt that are compared."),
  ("piece_seconds", 1.0, "Longer clips are cut."),
  ("prompt_seconds", 0.5, "Length of a prompt."),
  ("duration", 0.5, "Length of a continuation."),
  ("encode_hours", None, "Length of the file that cost encodes."),
  ("speaker_steps", 1, "Training steps of the speaker classifier."),
  ("seed", None, "Seed of the choices and of sampling."),
):
  _default = getattr(Options, _name)
  _define: Any = flags.DEFINE_float if isinstance(_default, float) else flags.DEFINE_integer
  _define(_name, _default, _text, _least, flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
  """Runs the suites one after another; what is done is kept when a later one fails."""
  del argv
  chosen = _chosen_suites()
  if FLAGS.check:
    _check()
    return
  for name in ("data", "output_dir"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is needed; see --help")
  options = _options()
  try:
    os.makedirs(options.output_dir, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {options.output_dir}: {error.strerror}") from error
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.evaluation import report

  bundle = bundles.load_bundle(options.bundle)
  results: dict[str, Any] = {
    "bundle": bundle.name,
    "token_hash": bundle.token_hash,
    "flags": {name: FLAGS[name].value for name in FLAGS},
    "versions": _versions(),
    "rows": [],
    "details": {},
    "seconds": {},
  }
  path = os.path.join(options.output_dir, "results.json")
  for name in chosen:
    suite = importlib.import_module(f"audiolm_jax.evaluation.suites.{name}")
    started = time.monotonic()
    result = suite.run(bundle, options)
    results["seconds"][name] = time.monotonic() - started
    results["rows"] += result.rows
    results["details"][name] = result.details
    report.write_json(path, results)
    _write_pages(options.output_dir, results)
    print(f"{name}: {results['seconds'][name]:.0f} s", flush=True)
  print(report.markdown_table(results["rows"]))
  print(f"wrote {path}")


def _chosen_suites() -> list[str]:
  given = FLAGS.suite
  for name in given:
    if name not in (*SUITES, "all"):
      raise UserError(f"no suite {name!r}; there are all, {', '.join(SUITES)}")
  return [name for name in SUITES if name in given or "all" in given]


def _options() -> Options:
  given: dict[str, Any] = {f.name: FLAGS[f.name].value for f in dataclasses.fields(Options)}
  return Options(**given | {"stages": tuple(FLAGS.stages), "domain": Domain(FLAGS.domain)})


def _check() -> None:
  """Says what each data set that is given holds; raises where something is missing."""
  from audiolm_jax.data.manifest import list_clips
  from audiolm_jax.evaluation import abx, pairs
  from audiolm_jax.evaluation.suites import content

  if not (FLAGS.data or FLAGS.items or FLAGS.pairs):
    raise UserError("--check needs --data, --items or --pairs")
  if FLAGS.data:
    clips = list_clips(FLAGS.data)
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
    print(f"{FLAGS.items}: {len(items)} items in {len(files)} files, all there")
  if FLAGS.pairs:
    found = pairs.read_pairs(FLAGS.pairs)
    categories = sorted({category for pair in found for category in pair.categories})
    print(f"{FLAGS.pairs}: {len(found)} pairs, all there; categories: {', '.join(categories)}")


def _write_pages(folder: str, results: dict[str, Any]) -> None:
  """The rows for a spreadsheet, and all as a page."""
  from audiolm_jax.evaluation import page, report

  def files(kind: str) -> dict[str, str]:
    """Paths by caption of what the suites have written."""
    return {
      caption: os.path.join(folder, name)
      for details in results["details"].values()
      for caption, name in details.get(kind, {}).items()
    }

  report.write_csv(os.path.join(folder, "results.csv"), results["rows"])
  page.write_page(
    os.path.join(folder, "index.html"),
    f"{results['bundle']}: evaluation",
    results["rows"],
    {"token hash": results["token_hash"], **results["versions"], **results["flags"]},
    pictures=files("pictures"),
    sounds=files("sounds"),
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
