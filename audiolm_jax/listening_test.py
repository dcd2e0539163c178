r"""Builds a web page with a listening test, and scores the answers of the listeners.

  python -m audiolm_jax.listening_test build --bundle speech --prompts recordings \
    --output_dir page
  python -m audiolm_jax.listening_test score answers-*.json --key page.key.json

The page works from disk, on a phone and on any web host. At the end of the test, listeners download
their answers and send them to you. The key file `page.key.json`, next to --output_dir, contains the
origin of each clip: do not upload it. `--key` sets another path of the key file. Kinds of test
(`--kind`):

  real_or_synthetic  is the sound after the first 3 s a recording? In the AudioLM paper, 51.2 % of
                     1000 answers were right.
  preference         which continuation is better, by --bundle or by --other_bundle? In the AudioLM
                     paper, 83.3 % of 150 answers preferred the whole system to its acoustic stages.
  mushra             how close to the recording is the codec, with all levels and with the first 4?
"""

import glob
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import check_given, flags, run_cli, takes_arguments
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.io import audio

if TYPE_CHECKING:  # imports JAX
  from audiolm_jax.trainables.detection_corpus import Pair

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
  "kind", "real_or_synthetic", ["real_or_synthetic", "preference", "mushra"],
  "Kind of the test.", flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string("bundle", "speech", "Name or folder of a bundle.", flag_values=FLAGS)
flags.DEFINE_string(
  "other_bundle", None, "Bundle to compare with, for preference.", flag_values=FLAGS
)
flags.DEFINE_string("prompts", None, "Folder or manifest of recordings.", flag_values=FLAGS)
flags.DEFINE_string("split", None, "Split of the recordings; default: all.", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "Folder of the page, to create.", flag_values=FLAGS)
flags.DEFINE_integer("num_trials", 20, "Maximum number of trials.", 1, flag_values=FLAGS)
flags.DEFINE_float("prompt_seconds", 3.0, "Length of a prompt.", 0.5, flag_values=FLAGS)
flags.DEFINE_float("duration", 7.0, "Length of a continuation, seconds.", 0.5, flag_values=FLAGS)
flags.DEFINE_integer(
  "seed", 0, "Seed of the choice of recordings and of sampling.", 0, flag_values=FLAGS
)
flags.DEFINE_string(
  "key", None, "Key of the test, which build writes and score reads; default of build: next to "
  "--output_dir.",
  flag_values=FLAGS,
)  # fmt: skip


@takes_arguments
def main(argv: Sequence[str]) -> None:
  """Builds a listening test, or scores the answers of the listeners."""
  command, arguments = (argv[1], argv[2:]) if len(argv) > 1 else ("", [])
  if command == "build" and not arguments:
    _build()
  elif command == "score":
    _score(arguments)
  else:
    raise UserError("the command is build, or score and the files of answers; see --help")


def _build() -> None:
  check_given(FLAGS, "prompts", "output_dir")
  if (FLAGS.kind == "preference") != bool(FLAGS.other_bundle):
    raise UserError("--other_bundle and --kind preference need each other: it compares two bundles")
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.core.version import __version__
  from audiolm_jax.evaluation.listening import build

  kind = build.ListeningTestKind(FLAGS.kind)
  bundle = bundles.load_bundle(FLAGS.bundle)
  names, recordings = _recordings(bundle.sample_rate)
  make = {"preference": _preference, "mushra": _mushra}.get(kind, _real_or_synthetic)
  trials = make(bundle, names, recordings)
  settings = {name: FLAGS[name].value for name in FLAGS}
  facts = settings | {"version": __version__, "token_hash": bundle.token_hash}
  key = build.write_test(
    FLAGS.output_dir, kind, trials, bundle.sample_rate, key_path=FLAGS.key, facts=facts
  )
  print(f"{FLAGS.output_dir}/index.html: {len(trials)} trials; {key} has the origin of each clip")


def _recordings(sample_rate: int) -> tuple[list[str], list[np.ndarray]]:
  """Returns names and waveforms of randomly chosen recordings, at most `--num_trials`.

  The waveforms are cut to the length of prompt and continuation. Shorter recordings and recordings
  with a silent prompt are skipped.

  Raises:
    DataError: all recordings are skipped.
  """
  from audiolm_jax.data.manifest import clips_of_split, list_clips, read_clip

  clips = list_clips(FLAGS.prompts)
  clips = clips_of_split(clips, FLAGS.split) if FLAGS.split else clips
  prompt, whole = (
    round(seconds * sample_rate)
    for seconds in (FLAGS.prompt_seconds, FLAGS.prompt_seconds + FLAGS.duration)
  )
  names, recordings = [], []
  for index in np.random.default_rng(FLAGS.seed).permutation(len(clips)):
    if len(names) == FLAGS.num_trials:
      break
    waveform = read_clip(clips[index], sample_rate)[:whole]
    if len(waveform) == whole and np.abs(waveform[:prompt]).max() > 1e-2:
      names.append(clips[index].id)
      recordings.append(waveform)
  if not names:
    raise DataError(
      f"{FLAGS.prompts} has no recording of {whole / sample_rate:g} s; shorten --prompt_seconds or "
      "--duration"
    )
  return names, recordings


def _pairs(bundle, recordings) -> "list[Pair]":
  """Returns each prompt with its real continuation and one sampled continuation."""
  from audiolm_jax.trainables.detection_corpus import CorpusConfig, make_pairs

  config = CorpusConfig(
    prompt_seconds=FLAGS.prompt_seconds, duration=FLAGS.duration, samples_per_prompt=1
  )
  return make_pairs(bundle, recordings, config, FLAGS.seed)


def _real_or_synthetic(bundle, names, recordings):
  from audiolm_jax.evaluation.listening import build

  pairs = _pairs(bundle, recordings)
  return build.real_or_synthetic(
    names,
    [pair.prompt for pair in pairs],
    [pair.codec for pair in pairs],
    [pair.continuations[0] for pair in pairs],
    bundle.sample_rate,
  )


def _preference(bundle, names, recordings):
  from audiolm_jax import bundles
  from audiolm_jax.evaluation.listening import build

  systems = {}
  for name in (FLAGS.bundle, FLAGS.other_bundle):
    maker = bundles.load_bundle(name)
    rates = bundle.sample_rate, maker.sample_rate
    given = [audio.resample(waveform, *rates) for waveform in recordings]
    whole = [np.concatenate([pair.prompt, pair.continuations[0]]) for pair in _pairs(maker, given)]
    systems[str(name)] = [audio.resample(waveform, *reversed(rates)) for waveform in whole]
  if len(systems) < 2:
    raise UserError(f"--bundle and --other_bundle are both {FLAGS.bundle}; give two bundles")
  return build.preference(names, systems, FLAGS.prompt_seconds)


def _mushra(bundle, names, recordings):
  from audiolm_jax.evaluation.codec import through_codec
  from audiolm_jax.evaluation.listening import build

  every = bundle.codec.spec.num_quantizers
  systems = {
    f"codec, {levels} levels": [through_codec(bundle.codec, w, levels) for w in recordings]
    for levels in sorted({min(4, every), every})
  }
  return build.mushra(names, recordings, systems, bundle.sample_rate)


def _score(patterns: Sequence[str]) -> None:
  if not FLAGS.key:
    raise UserError("--key is needed: the .key.json file that build wrote")
  from audiolm_jax.evaluation import report
  from audiolm_jax.evaluation.listening import score

  paths = [path for pattern in patterns for path in sorted(glob.glob(pattern)) or [pattern]]
  key = score.read_key(FLAGS.key)
  found = score.score(key, score.read_answers(paths, key))
  print(report.markdown_table({"listening": found.rows}))
  print("\n".join(found.sentences))


if __name__ == "__main__":
  run_cli(main, FLAGS)
