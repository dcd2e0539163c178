r"""Makes the training data of a detector from recordings and a bundle.

  python -m audiolm_jax.make_detection_corpus --bundle bundles/mine --data recordings \
    --output_dir runs/detection

By default, recordings are cut into pieces of at most ten seconds. The first three seconds of a
piece are the prompt. For each piece, the command writes two sampled continuations of the prompt,
and the real continuation twice: decoded by the bundle's codec, and unchanged. Pieces of less than
four seconds and pieces with a silent prompt are omitted. The recordings of a tenth of the speakers
in the split `train` become the new split `valid`. Recordings of the old split `valid`, without
speakers who are in `train`, become the split `test`. Rerun the same command to resume a killed run.
"""

from collections.abc import Sequence

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string("bundle", "speech", "Name or folder of the bundle.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Folder of recordings or .jsonl manifest.", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "Folder, new or unfinished.", flag_values=FLAGS)
flags.DEFINE_float("prompt_seconds", 3.0, "Length of the prompts.", 0.5, flag_values=FLAGS)
flags.DEFINE_float("duration", 7.0, "Longest continuation in seconds.", 1.0, flag_values=FLAGS)
flags.DEFINE_integer("samples_per_prompt", 2, "Continuations per prompt.", 1, flag_values=FLAGS)
flags.DEFINE_integer(
  "max_pieces", None, "Maximum number of pieces in a split.", 1, flag_values=FLAGS
)
flags.DEFINE_integer("batch_size", 8, "Prompts continued together.", 1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of choices and sampling.", 0, flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
  """Makes the corpus and prints the number of clips of each split and kind."""
  del argv
  for name in ("data", "output_dir"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is required; see --help")
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.trainables import detection_corpus as corpus

  config = corpus.CorpusConfig(
    prompt_seconds=FLAGS.prompt_seconds,
    duration=FLAGS.duration,
    samples_per_prompt=FLAGS.samples_per_prompt,
    max_pieces=FLAGS.max_pieces,
    batch_size=FLAGS.batch_size,
    seed=FLAGS.seed,
  )
  bundle = bundles.load_bundle(FLAGS.bundle)
  counts = corpus.make_corpus(bundle, FLAGS.data, FLAGS.output_dir, config)
  for kind, count in sorted(counts.items()):
    print(f"{kind}: {count} clips")
  print(f"wrote {FLAGS.output_dir}/manifest.jsonl")


if __name__ == "__main__":
  run_cli(main, FLAGS)
