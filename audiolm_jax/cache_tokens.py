"""Turns a folder of audio into tokens, once, for the training of the three stages.

  python -m audiolm_jax.cache_tokens --bundle runs/tokenizers --audio_dir ~/recordings \
    --output_dir runs/tokens

A run that was killed is gone on with by the same command; finished clips are not done again.
"""

from collections.abc import Sequence

from absl import flags

from audiolm_jax import compilation_cache
from audiolm_jax.errors import UserError, run_cli

FLAGS = flags.FLAGS
flags.DEFINE_string("bundle", None, "Name or folder of the bundle whose tokenizers to use.")
flags.DEFINE_string("audio_dir", None, "Folder of audio files, of any common format and rate.")
flags.DEFINE_string("manifest", None, "A .jsonl manifest instead: path, split, speaker per line.")
flags.DEFINE_string("output_dir", None, "Folder of the token store to make or to finish.")
flags.DEFINE_float("valid_fraction", 0.05, "Held-out share of a corpus without splits of its own.")
flags.DEFINE_float("max_skipped_fraction", 0.01, "Share of unreadable clips past which to stop.")
flags.DEFINE_integer("clips_per_shard", 128, "Clips per file of the store.", lower_bound=1)
flags.DEFINE_integer("num_workers", 2, "Clips tokenized at a time.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
  """Tokenizes and reports."""
  del argv
  for name in ("bundle", "output_dir"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is needed; see --help")
  if (FLAGS.audio_dir is None) == (FLAGS.manifest is None):
    raise UserError("give either --audio_dir or --manifest")
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.data import tokenization

  done = tokenization.tokenize_corpus(
    bundles.load_bundle(FLAGS.bundle, stages=()),
    FLAGS.audio_dir or FLAGS.manifest,
    FLAGS.output_dir,
    valid_fraction=FLAGS.valid_fraction,
    max_skipped_fraction=FLAGS.max_skipped_fraction,
    clips_per_shard=FLAGS.clips_per_shard,
    num_workers=FLAGS.num_workers,
  )
  print(done.info.report())
  print(
    f"{done.seconds_of_audio / 3600:.2f} h tokenized in {done.seconds:.0f} s "
    f"({done.seconds_of_audio / done.seconds:.0f}x real time); the store is {FLAGS.output_dir}"
  )


if __name__ == "__main__":
  run_cli(main)
