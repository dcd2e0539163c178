r"""Converts a corpus of audio to a token store, which the training of stages reads.

  python -m audiolm_jax.cache_tokens --bundle runs/tokenizers --audio_dir ~/recordings \
    --output_dir runs/tokens
  python -m audiolm_jax.cache_tokens info runs/tokens

Rerun the same command to resume a killed run; finished shards are kept. If audio files of an
existing store were replaced or removed, the command raises an error. With --replace_changed, it
tokenizes replaced files again and drops the tokens of removed files.

Sources, stores and bundles may be in buckets: gs://... with gcsfs installed, s3://... with s3fs.

Without --runner, this process does all the work. With --runner, Apache Beam distributes the shards
over workers, and each worker loads the bundle once. Common values of --beam_options:

  runner          options
  DirectRunner    --direct_num_workers=8 --direct_running_mode=multi_processing
  FlinkRunner     --flink_master=HOST:8081 --parallelism=64 --environment_type=DOCKER
                  --environment_config=IMAGE
  SparkRunner     --spark_master_url=spark://HOST:7077 --environment_type=DOCKER
                  --environment_config=IMAGE
  DataflowRunner  --project=P --region=R --temp_location=gs://B/tmp --sdk_container_image=IMAGE
                  --number_of_worker_harness_threads=1 --num_workers=64

IMAGE is Beam's Python container image with this package and its requirements installed. Workers on
other machines cannot read the local folders of this machine. So give sources and stores by URL, and
the bundle by URL or by the name of a shipped bundle.

To read audio from a SeqIO task instead of a folder, give the task and the module that registers it:

  AUDIOLM_SPEECH_DIR=~/recordings python -m audiolm_jax.cache_tokens --runner DirectRunner \
    --module tasks.speech --task speech_waveform --bundle speech --output_dir runs/tokens
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli, takes_arguments
from audiolm_jax.core.errors import UserError

if TYPE_CHECKING:  # imports JAX
  from audiolm_jax.data.tokenization import Tokenized

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
  "Layout of --audio_dir: librispeech, ljspeech, maestro, vctk, folder; detected by default.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "task", None, "A SeqIO task with audio instead; needs --runner.", flag_values=FLAGS
)
flags.DEFINE_string(
  "module", None, "Python module that registers --task, such as tasks.speech.", flag_values=FLAGS
)
flags.DEFINE_string(
  "output_dir", None, "Folder of the token store, new or unfinished.", flag_values=FLAGS
)
flags.DEFINE_enum(
  "streams",
  "all",
  ["all", "semantic", "codes"],
  "Tokens to store; a semantic stage needs no codes, which take most of the time.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "search_width",
  1,
  "Sequences of codes kept per frame by the codec; 8 encodes more accurately and takes longer.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "runner", None, "Runner of Apache Beam, such as DirectRunner.", flag_values=FLAGS
)
flags.DEFINE_string(
  "beam_options",
  "",
  "Options of the runner in one string, as in a shell.",
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "valid_fraction", 0.05, "Held-out share of a corpus that has no splits.", flag_values=FLAGS
)
flags.DEFINE_float(
  "max_skipped_fraction", 0.01, "Share of clips that may be unreadable.", flag_values=FLAGS
)
flags.DEFINE_integer(
  "clips_per_shard", 128, "Clips per file of the store.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "batch_size",
  None,
  "Clips tokenized together; default: 1 on a CPU, where more are not faster, 8 elsewhere.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_workers",
  2,
  "Batches that each process tokenizes at a time.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "replace_changed",
  False,
  "Tokenize clips again whose files changed, and drop removed clips, instead of an error.",
  flag_values=FLAGS,
)


@takes_arguments
def main(argv: Sequence[str]) -> None:
  """Tokenizes a corpus and prints a report, or prints a report on an existing store."""
  if len(argv) > 1:
    _info(argv[1:])
    return
  for name in ("bundle", "output_dir"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is required; see --help")
  if sum(FLAGS[name].value is not None for name in ("audio_dir", "manifest", "task")) != 1:
    raise UserError("give exactly one of --audio_dir, --manifest and --task")
  if FLAGS.task and not (FLAGS.runner and FLAGS.module):
    raise UserError("--task needs --runner, and --module that registers the task")
  if FLAGS.beam_options and not FLAGS.runner:
    raise UserError("--beam_options needs --runner, such as DirectRunner")
  compilation_cache.enable()
  done = _tokenize_with_beam() if FLAGS.runner else _tokenize()
  print(done.info.report())
  if done.changed:
    print(f"{done.changed} clips changed and were tokenized again")
  if done.removed:
    print(f"{done.removed} clips are not in the corpus any more and were dropped")
  print(
    f"{done.seconds_of_audio / 3600:.2f} h tokenized in {done.seconds:.0f} s "
    f"({done.seconds_of_audio / done.seconds:.0f}x real time) in {FLAGS.output_dir}"
  )


def _tokenize() -> "Tokenized":
  import tempfile

  from audiolm_jax import bundles
  from audiolm_jax.data import tokenization
  from audiolm_jax.io import storage

  with tempfile.TemporaryDirectory() as folder:
    bundle = bundles.load_bundle(storage.fetched_folder(FLAGS.bundle, folder), stages=())
  return tokenization.tokenize_corpus(
    bundle.searching(FLAGS.search_width),
    FLAGS.audio_dir or FLAGS.manifest,
    FLAGS.output_dir,
    replace_changed=FLAGS.replace_changed,
    **_settings(),
  )


def _tokenize_with_beam() -> "Tokenized":
  try:
    from audiolm_jax.data import beam_tokenization
  except ModuleNotFoundError as error:
    raise UserError(f"--runner needs Apache Beam ({error}): pip install apache-beam") from error
  job = beam_tokenization.TokenizationJob(
    bundle=FLAGS.bundle,
    output_dir=FLAGS.output_dir,
    source=FLAGS.audio_dir or FLAGS.manifest,
    task=FLAGS.task,
    module=FLAGS.module,
    search_width=FLAGS.search_width,
    **_settings(),
  )
  return beam_tokenization.tokenize_corpus(
    job, FLAGS.runner, FLAGS.beam_options, replace_changed=FLAGS.replace_changed
  )


def _settings() -> dict[str, Any]:
  names = ("layout", "valid_fraction", "max_skipped_fraction")
  names += ("clips_per_shard", "batch_size", "num_workers")
  settings = {name: FLAGS[name].value for name in names}
  return settings | ({} if FLAGS.streams == "all" else {"streams": (FLAGS.streams,)})


def _info(arguments: Sequence[str]) -> None:
  if len(arguments) != 2 or arguments[0] != "info":
    raise UserError(
      f"unexpected argument {arguments[0]!r}; use --flags for settings, or: info FOLDER"
    )
  from audiolm_jax.data import token_store

  print(token_store.report(arguments[1]))


if __name__ == "__main__":
  run_cli(main, FLAGS)
