"""Measures a bundle: codec, tokens and what they keep, stages, continuations, its detector, cost.

  python -m audiolm_jax.eval --bundle speech_tiny --data manifest.jsonl --suite all \
    --output_dir results

`--data` is a folder or a manifest with the splits `valid` (what is measured on; speakers who are
also in `train` are left out where others are there), `train` (for the n-gram tables and the speaker
model) and `probe` (the same sentences, field `sentence`, by several speakers). Writes results.json,
results.csv and index.html, one page with figures, pictures and sound. docs/evaluation.md describes
the suites and the data sets that some of them need.
"""

import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from absl import flags

from audiolm_jax import audio, compilation_cache
from audiolm_jax.errors import AudioError, DataError, UserError, run_cli

SUITES = (
  "codec",
  "semantic",
  "content",
  "tokens",
  "likelihood",
  "continuation",
  "detection",
  "cost",
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
  "other_bundle", None, "Whose samples the detector is shown too.", flag_values=FLAGS
)
flags.DEFINE_string("output_dir", None, "Folder for the results.", flag_values=FLAGS)
flags.DEFINE_bool(
  "check",
  False,
  "Read --data, --items and --pairs, say what is there, and leave.",
  flag_values=FLAGS,
)
flags.DEFINE_enum("domain", "speech", ["speech", "music"], "What is heard.", flag_values=FLAGS)
flags.DEFINE_integer("max_clips", 60, "Pieces to reconstruct.", 1, flag_values=FLAGS)
flags.DEFINE_integer("max_continuations", 40, "Prompts to continue.", 1, flag_values=FLAGS)
flags.DEFINE_integer("max_speaker_clips", 600, "Clips for the speaker model.", 2, flag_values=FLAGS)
flags.DEFINE_float("piece_seconds", 14.0, "Longer clips are cut.", 1.0, flag_values=FLAGS)
flags.DEFINE_float("prompt_seconds", 3.0, "Length of a prompt.", 0.5, flag_values=FLAGS)
flags.DEFINE_float("duration", 7.0, "Length of a continuation.", 0.5, flag_values=FLAGS)
flags.DEFINE_float("encode_hours", 1.0, "Length of the file that cost encodes.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the choices and of sampling.", flag_values=FLAGS)


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
  try:
    os.makedirs(FLAGS.output_dir, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {FLAGS.output_dir}: {error.strerror}") from error
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.evaluation import report

  bundle = bundles.load_bundle(FLAGS.bundle)
  results: dict[str, Any] = {
    "bundle": bundle.name,
    "token_hash": bundle.token_hash,
    "flags": {name: FLAGS[name].value for name in FLAGS},
    "versions": _versions(),
    "rows": [],
    "details": {},
    "seconds": {},
  }
  path = os.path.join(FLAGS.output_dir, "results.json")
  runners = {
    "codec": _codec,
    "semantic": _semantic,
    "content": _content,
    "tokens": _tokens,
    "likelihood": _likelihood,
    "continuation": _continuation,
    "detection": _detection,
    "cost": _cost,
  }
  for name in chosen:
    started = time.monotonic()
    result = runners[name](bundle)
    results["seconds"][name] = time.monotonic() - started
    results["rows"] += result.rows
    results["details"][name] = result.details
    report.write_json(path, results)
    _write_pages(results)
    print(f"{name}: {results['seconds'][name]:.0f} s", flush=True)
  table = report.markdown_table(results["rows"])
  print(table)
  print(f"wrote {path}")


def _check() -> None:
  """Says what each data set that is given holds; raises where something is missing."""
  from audiolm_jax.data.manifest import list_clips
  from audiolm_jax.evaluation import abx, content, pairs

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
    read = content.reader_of(_items_audio_dir(), audio.check_readable)
    files = sorted({item.file for item in items})
    for file in files:
      read(file)
    print(f"{FLAGS.items}: {len(items)} items in {len(files)} files, all there")
  if FLAGS.pairs:
    found = pairs.read_pairs(FLAGS.pairs)
    categories = sorted({category for pair in found for category in pair.categories})
    print(f"{FLAGS.pairs}: {len(found)} pairs, all there; categories: {', '.join(categories)}")


def _items_audio_dir() -> str:
  folder = FLAGS.items_audio_dir or FLAGS.data
  if not folder or not os.path.isdir(folder):
    raise UserError(f"{folder} is no folder; --items_audio_dir says where the items' files are")
  return folder


def _write_pages(results: dict[str, Any]) -> None:
  """The rows for a spreadsheet, and all as a page."""
  from audiolm_jax.evaluation import page, report

  def there(name: str) -> str | None:
    path = os.path.join(FLAGS.output_dir, name)
    return path if os.path.exists(path) else None

  report.write_csv(os.path.join(FLAGS.output_dir, "results.csv"), results["rows"])
  heard = results["details"].get("continuation", {}).get("clips", [])
  sounds = {
    f"{name}: prompt and continuation": there(f"continuation_{i}.flac")
    for i, name in enumerate(heard)
  }
  pictures = {"Prompts (left of the line) and continuations": there("continuations.png")}
  page.write_page(
    os.path.join(FLAGS.output_dir, "index.html"),
    f"{results['bundle']}: evaluation",
    results["rows"],
    {"token hash": results["token_hash"], **results["versions"], **results["flags"]},
    pictures={caption: path for caption, path in pictures.items() if path and heard},
    sounds={caption: path for caption, path in sounds.items() if path},
  )


def _chosen_suites() -> list[str]:
  given = FLAGS.suite
  for name in given:
    if name not in (*SUITES, "all"):
      raise UserError(f"no suite {name!r}; there are all, {', '.join(SUITES)}")
  return [name for name in SUITES if name in given or "all" in given]


def _pieces(bundle, count: int, least_seconds: float):
  from audiolm_jax.evaluation.clips import load_pieces, speakers_of

  known = speakers_of(FLAGS.train_data or FLAGS.data, "train")
  if not speakers_of(FLAGS.data, "valid") - known:
    known = set()  # nobody is new; then the clips at least are
  pieces = load_pieces(
    FLAGS.data,
    "valid",
    bundle.sample_rate,
    without_speakers=known,
    max_clips=count,
    piece_seconds=FLAGS.piece_seconds,
    least_seconds=least_seconds,
    seed=FLAGS.seed,
  )
  if not pieces:
    raise DataError(f"{FLAGS.data} has no valid clip of {least_seconds:g} s")
  return pieces


def _codec(bundle):
  from audiolm_jax.evaluation import suites

  stage = bundle.stages.get("coarse")
  return suites.codec_suite(
    bundle.codec,
    _pieces(bundle, FLAGS.max_clips, 1.0),
    suites.Domain(FLAGS.domain),
    coarse_levels=stage.spec.num_target_quantizers if stage else 4,
  )


def _semantic(bundle):
  from audiolm_jax.evaluation import suites
  from audiolm_jax.evaluation.clips import load_pieces

  source = FLAGS.probe_data or FLAGS.data
  try:
    probes = load_pieces(source, "probe", bundle.sample_rate)
  except DataError as error:
    if FLAGS.domain == "speech":
      raise
    return suites.SuiteResult([], {"left_out": str(error)})
  return suites.semantic_suite(
    bundle.semantic.tokenize_long, probes, bundle.semantic.spec.num_clusters
  )


def _content(bundle):
  from audiolm_jax.evaluation import abx, content, suites

  if not FLAGS.items:
    return suites.SuiteResult([], {"left_out": "no --items are given"})
  read = content.reader_of(
    _items_audio_dir(), lambda path: audio.load_audio(path, bundle.sample_rate)
  )
  return content.content_suite(bundle, abx.read_items(FLAGS.items), read, seed=FLAGS.seed)


def _tokens(bundle):
  from audiolm_jax.data.token_store import TokenStore
  from audiolm_jax.evaluation import suites

  if not bundle.stages:
    raise UserError(f"bundle {bundle.name} has no stages; leave out the suite tokens")
  if FLAGS.token_store:
    store = TokenStore(FLAGS.token_store, bundle.token_hash)
    train, valid = store.clips("train"), store.clips("valid")
  else:
    train = _tokenize(bundle, FLAGS.train_data or FLAGS.data, "train")
    valid = _tokenize(bundle, FLAGS.data, "valid")
  return suites.tokens_suite(list(bundle.stages.values()), train, valid)


def _likelihood(bundle):
  from audiolm_jax.evaluation import pairs, suites

  if not FLAGS.pairs:
    return suites.SuiteResult([], {"left_out": "no --pairs are given"})
  return pairs.likelihood_suite(
    bundle,
    pairs.read_pairs(FLAGS.pairs),
    lambda path: audio.load_audio(path, bundle.sample_rate),
    FLAGS.stages or None,
  )


def _tokenize(bundle, source: str, split: str):
  from audiolm_jax.data.manifest import clips_of_split, list_clips, read_clip
  from audiolm_jax.data.token_shards import TokenClip

  clips = []
  for clip in clips_of_split(list_clips(source), split):
    waveform = read_clip(clip, bundle.sample_rate)
    semantic, codes = bundle.semantic.tokenize_long(waveform), bundle.codec.encode_long(waveform)
    clips.append(TokenClip(clip.id, semantic, codes, split, clip.speaker))
  return clips


def _continuation(bundle):
  from audiolm_jax.evaluation import plots, suites
  from audiolm_jax.evaluation.clips import load_pieces

  domain = suites.Domain(FLAGS.domain)
  model = None
  if domain is suites.Domain.SPEECH:
    train = load_pieces(
      FLAGS.train_data or FLAGS.data,
      "train",
      bundle.sample_rate,
      max_clips=FLAGS.max_speaker_clips,
      piece_seconds=FLAGS.piece_seconds,
      least_seconds=2.0,
      seed=FLAGS.seed,
    )
    model = suites.codec_speaker_model(bundle.codec, train)
  # Enough after the prompt for two pieces of real speech of 2 s.
  pieces = _pieces(bundle, FLAGS.max_continuations, FLAGS.prompt_seconds + 4.0)
  pieces = _without_silent_prompts(pieces, round(FLAGS.prompt_seconds * bundle.sample_rate))
  result = suites.continuation_suite(
    bundle.codec,
    bundle.semantic.tokenize_long,
    _continuer(bundle),
    pieces,
    domain,
    prompt_seconds=FLAGS.prompt_seconds,
    speaker_model=model,
    seed=FLAGS.seed,
  )
  made, names = result.details.pop("continuations")[:10], result.details["clips"]
  for index, waveform in enumerate(made):
    path = os.path.join(FLAGS.output_dir, f"continuation_{index}.flac")
    audio.write_audio(path, waveform, bundle.sample_rate)
  plots.save_spectrogram_grid(
    os.path.join(FLAGS.output_dir, "continuations.png"),
    made,
    bundle.sample_rate,
    titles=names[: len(made)],
    prompt_seconds=FLAGS.prompt_seconds,
  )
  return result


def _without_silent_prompts(pieces, prompt_samples: int):
  kept = []
  for piece in pieces:
    try:
      audio.check_not_silent(piece.waveform[:prompt_samples], piece.id)
      kept.append(piece)
    except AudioError as error:
      print(f"left out: {error}")
  if not kept:
    raise DataError(f"{FLAGS.data} has no valid clip with sound in its first seconds")
  return kept


def _continuer(bundle):
  from audiolm_jax import api
  from audiolm_jax.evaluation.suites import Continuation

  new_samples = round(FLAGS.duration * bundle.sample_rate)

  def continue_prompt(prompt, seed):
    started = time.monotonic()
    result = api.continue_audio(
      bundle,
      prompt,
      bundle.sample_rate,
      duration=FLAGS.duration,
      seed=seed,
      prompt_seconds=None,
    )
    seconds = time.monotonic() - started
    return Continuation(np.asarray(result.waveform).reshape(-1)[-new_samples:], seconds)

  return continue_prompt


def _detection(bundle):
  from audiolm_jax import bundles
  from audiolm_jax.detection.corpus import CorpusConfig, Pair, make_pairs
  from audiolm_jax.evaluation import detection, suites

  if bundle.detector is None:
    return suites.SuiteResult([], {"left_out": f"{bundle.name} has no detector"})
  config = CorpusConfig(prompt_seconds=FLAGS.prompt_seconds, duration=FLAGS.duration)
  pieces = _pieces(bundle, FLAGS.max_continuations, FLAGS.prompt_seconds + 1.0)
  pieces = _without_silent_prompts(pieces, round(FLAGS.prompt_seconds * bundle.sample_rate))
  recordings = [piece.waveform for piece in pieces]

  def pairs_of(maker):
    heard = [audio.resample(w, bundle.sample_rate, maker.sample_rate) for w in recordings]
    made = make_pairs(maker, heard, config, FLAGS.seed)
    rates = maker.sample_rate, bundle.detector.sample_rate
    return [Pair(*(audio.resample(sound, *rates) for sound in pair)) for pair in made]

  others = [bundles.load_bundle(FLAGS.other_bundle)] if FLAGS.other_bundle else []
  return detection.detection_suite(
    bundle.detector,
    pairs_of(bundle),
    bundle.detector.sample_rate,
    {maker.name: pairs_of(maker) for maker in others},
  )


def _cost(bundle):
  from audiolm_jax.evaluation import cost

  clip = _pieces(bundle, 1, FLAGS.prompt_seconds)[0].waveform
  return cost.cost_suite(
    FLAGS.bundle,
    clip,
    bundle.sample_rate,
    prompt_seconds=FLAGS.prompt_seconds,
    duration=FLAGS.duration,
    hours=FLAGS.encode_hours,
  )


def _versions() -> dict[str, str]:
  versions = {"python": platform.python_version(), "processor": platform.machine()}
  for package in ("audiolm_jax", "jax", "flax", "numpy", "librosa", "pystoi", "pesq"):
    try:
      versions[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      versions[package] = "not installed"
  return versions


if __name__ == "__main__":
  run_cli(main, FLAGS)
