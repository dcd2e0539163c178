"""Prints the flags that the gin files of the stages need for the tokenizers of a bundle.

  python launch/tokenizer_settings.py --bundle=BUNDLE

There is one flag per line: both rates, the number of clusters, the codebook size, the number of
levels of a parallel stage, up to twelve as in the paper, and the number of levels of the fine
stage, which are those after the four of the coarse stage.
"""

from collections.abc import Iterator, Sequence

from absl import flags

from audiolm_jax.bundles import Bundle, load_bundle
from audiolm_jax.core.command_line import run_cli
from audiolm_jax.core.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string("bundle", None, "Folder of a bundle of tokenizers.", flag_values=FLAGS)

COARSE_LEVELS = 4
MOST_LEVELS = 12


def settings(bundle: Bundle) -> Iterator[str]:
  """Yields flags of `audiolm_jax.train`."""
  codec, semantic = bundle.codec.spec, bundle.semantic.spec
  yield f"--gin.NUM_CLUSTERS={semantic.num_clusters}"
  yield f"--gin.SEMANTIC_RATE={semantic.frame_rate}"
  yield f"--gin.FRAME_RATE={codec.frame_rate}"
  yield f"--gin.CODEBOOK_SIZE={codec.codebook_size}"
  levels = min(codec.num_quantizers, MOST_LEVELS)
  yield f"--gin.NUM_QUANTIZERS={levels}"
  fine = levels - COARSE_LEVELS
  if fine > 0:
    yield f"--gin.NUM_FINE_QUANTIZERS={fine}"


def main(argv: Sequence[str]) -> None:
  """Prints the flags."""
  del argv
  if not FLAGS.bundle:
    raise UserError("--bundle is needed: a bundle of tokenizers")
  bundle = load_bundle(FLAGS.bundle)
  if bundle.stages:
    raise UserError(
      f"{FLAGS.bundle} has stages, which new ones cannot be added to; give a bundle of its "
      "tokenizers only, exported with export_bundle --tokenizers_only"
    )
  print("\n".join(settings(bundle)))


if __name__ == "__main__":
  run_cli(main, FLAGS)
