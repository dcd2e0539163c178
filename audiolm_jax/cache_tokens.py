"""Turns audio into tokens, once, for the training of the three stages.

  python -m audiolm_jax.cache_tokens --bundle runs/tokenizers --audio_dir ~/recordings \
    --output_dir runs/tokens
  python -m audiolm_jax.cache_tokens info runs/tokens

A run that was killed is gone on with by the same command; finished shards are not done again.
Sources, stores and bundles may lie in buckets: gs://... with gcsfs installed, s3://... with s3fs.

Without --runner all happens in this process. With it, Apache Beam spreads the shards over workers;
each loads the bundle once. What --beam_options says of the workers:

  runner          options
  DirectRunner    --direct_num_workers=8 --direct_running_mode=multi_processing
  FlinkRunner     --flink_master=HOST:8081 --parallelism=64 --environment_type=DOCKER
                  --environment_config=IMAGE
  SparkRunner     --spark_master_url=spark://HOST:7077 --environment_type=DOCKER
                  --environment_config=IMAGE
  DataflowRunner  --project=P --region=R --temp_location=gs://B/tmp --sdk_container_image=IMAGE
                  --number_of_worker_harness_threads=1 --num_workers=64

IMAGE is Beam's Python image with this package and its requirements installed. Other machines see
neither local folders nor this environment: give them URLs and bundles by URL or shipped name.

A SeqIO task's audio, instead of a folder's, is named with the module that registers it:

  AUDIOLM_SPEECH_DIR=~/recordings python -m audiolm_jax.cache_tokens --runner DirectRunner \
    --module tasks.speech --task speech_waveform --bundle speech_tiny --output_dir runs/tokens
"""

from collections.abc import Sequence
from typing import Any

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "bundle", None, "Name, folder or URL of the bundle whose tokenizers to use.", flag_values=FLAGS
)
flags.DEFINE_string(
  "audio_dir", None, "Folder of audio files, of any common format and rate.", flag_values=FLAGS
)
flags.DEFINE_string(
  "manifest", None, "A .jsonl manifest instead: path, split, speaker per line.", flag_values=FLAGS
)
flags.DEFINE_string(
  "layout",
  None,
  "Of --audio_dir: librispeech, ljspeech, maestro, folder; found out if not given.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "task", None, "A SeqIO task instead, whose source is audio; needs --runner.", flag_values=FLAGS
)
flags.DEFINE_string(
  "module", None, "Python module that registers --task, such as tasks.speech.", flag_values=FLAGS
)
flags.DEFINE_string(
  "output_dir", None, "Folder of the token store to make or to finish.", flag_values=FLAGS
)
flags.DEFINE_string(
  "runner", None, "Apache Beam's runner, such as DirectRunner.", flag_values=FLAGS
)
flags.DEFINE_string(
  "beam_options", "", "Options of the runner, in one string, as in a shell.", flag_values=FLAGS
)
flags.DEFINE_float(
  "valid_fraction", 0.05, "Held-out share of a corpus without splits of its own.", flag_values=FLAGS
)
flags.DEFINE_float(
  "max_skipped_fraction", 0.01, "Share of unreadable clips past which to stop.", flag_values=FLAGS
)
flags.DEFINE_integer(
  "clips_per_shard", 128, "Clips per file of the store.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "batch_size",
  None,
  "Clips tokenized side by side; default: 1 on a CPU, which gains nothing from more, 8 elsewhere.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_workers", 2, "Batches that each process makes at a time.", lower_bound=1, flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
  """Tokenizes and reports, or reports on what is there."""
  if len(argv) > 1:
    _info(argv[1:])
    return
  for name in ("bundle", "output_dir"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is needed; see --help")
  if sum(FLAGS[name].value is not None for name in ("audio_dir", "manifest", "task")) != 1:
    raise UserError("give either --audio_dir or --manifest or --task")
  if FLAGS.task and not (FLAGS.runner and FLAGS.module):
    raise UserError("--task goes with --module, which registers it, and --runner")
  if FLAGS.beam_options and not FLAGS.runner:
    raise UserError("--beam_options goes with --runner, such as DirectRunner")
  compilation_cache.enable()
  done = _by_beam() if FLAGS.runner else _here()
  print(done.info.report())
  print(
    f"{done.seconds_of_audio / 3600:.2f} h tokenized in {done.seconds:.0f} s "
    f"({done.seconds_of_audio / done.seconds:.0f}x real time); the store is {FLAGS.output_dir}"
  )


main.takes_arguments = True  # type: ignore[attr-defined]


def _here() -> Any:
  import tempfile

  from audiolm_jax import bundles
  from audiolm_jax.data import tokenization
  from audiolm_jax.io import storage

  with tempfile.TemporaryDirectory() as folder:
    bundle = bundles.load_bundle(storage.fetched_folder(FLAGS.bundle, folder), stages=())
  return tokenization.tokenize_corpus(
    bundle,
    FLAGS.audio_dir or FLAGS.manifest,
    FLAGS.output_dir,
    **_settings(),
  )


def _by_beam() -> Any:
  try:
    from audiolm_jax.data import beam_tokenization
  except ModuleNotFoundError as error:
    raise UserError(f"--runner needs Apache Beam ({error}): pip install apache-beam") from error
  job = beam_tokenization.Job(
    bundle=FLAGS.bundle,
    output_dir=FLAGS.output_dir,
    source=FLAGS.audio_dir or FLAGS.manifest,
    task=FLAGS.task,
    module=FLAGS.module,
    **_settings(),
  )
  return beam_tokenization.tokenize_corpus(job, FLAGS.runner, FLAGS.beam_options)


def _settings() -> dict[str, Any]:
  names = ("layout", "valid_fraction", "max_skipped_fraction")
  names += ("clips_per_shard", "batch_size", "num_workers")
  return {name: FLAGS[name].value for name in names}


def _info(arguments: Sequence[str]) -> None:
  if len(arguments) != 2 or arguments[0] != "info":
    raise UserError(
      f"unexpected argument {arguments[0]!r}; every setting is a --flag, or say: info FOLDER"
    )
  from audiolm_jax.data import token_store

  print(token_store.report(arguments[1]))


if __name__ == "__main__":
  run_cli(main, FLAGS)
