"""Makes what a detector of a bundle's samples is trained on, out of recordings.

  python -m audiolm_jax.make_detection_corpus --bundle bundles/mine --data recordings \
    --output_dir runs/detection

Of every recording of four seconds or more: what follows its first three seconds, through the
bundle's codec and as it is, and two continuations of these seconds. Recordings of the split `valid`
by speakers who are not in `train` become the split `test`. The same command again goes on.
"""

from collections.abc import Sequence

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string("bundle", "speech_tiny", "Name or folder of the bundle.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "Folder of recordings or .jsonl manifest.", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "Folder to make or to finish.", flag_values=FLAGS)
flags.DEFINE_float("prompt_seconds", 3.0, "Length of a prompt.", 0.5, flag_values=FLAGS)
flags.DEFINE_float("duration", 7.0, "Longest continuation, seconds.", 1.0, flag_values=FLAGS)
flags.DEFINE_integer("samples_per_prompt", 2, "Continuations of each.", 1, flag_values=FLAGS)
flags.DEFINE_integer("max_pieces", None, "Most pieces of a split.", 1, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 8, "Prompts continued side by side.", 1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Of the choices and of sampling.", 0, flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
  """Makes the corpus, and says what is in it."""
  del argv
  for name in ("data", "output_dir"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is needed; see --help")
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
