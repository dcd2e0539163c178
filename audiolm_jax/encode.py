"""Encodes audio to tokens.

python -m audiolm_jax.encode speech.wav --output tokens.npz
"""

from collections.abc import Sequence

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli, takes_arguments
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.io import audio, files, token_file
from audiolm_jax.io.encoded import Encoded

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", None, "The .npz file to write.", flag_values=FLAGS)
flags.DEFINE_string(
  "bundle", "speech", "Name or folder of the bundle to encode with.", flag_values=FLAGS
)
flags.DEFINE_integer(
  "search_width",
  1,
  "Sequences of codes kept per frame by the codec; 8 encodes more accurately and takes longer.",
  lower_bound=1,
  flag_values=FLAGS,
)


@takes_arguments
def main(argv: Sequence[str]) -> None:
  """Encodes an audio file and writes the file of tokens."""
  if len(argv) != 2:
    raise UserError(f"give one audio file, not {len(argv) - 1}: encode IN.wav --output tokens.npz")
  if not FLAGS.output:
    raise UserError("--output is required: the .npz file to write")
  files.check_writable(FLAGS.output, argv[1:])
  audio.check_readable(argv[1])
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.bundles import token_files

  bundle = bundles.load_bundle(FLAGS.bundle, stages=()).searching(FLAGS.search_width)
  recording = audio.SlicedAudio(argv[1], bundle.sample_rate)
  audio.check_length(
    len(recording), bundle.sample_rate, 1 / bundle.semantic.spec.frame_rate, argv[1]
  )
  audio.check_peak(recording.peak, argv[1])
  semantic = bundle.semantic.tokenize_long(recording)
  audio.check_peak(recording.resampled_peak, argv[1])
  encoded = Encoded({SEMANTIC: semantic, CODES: bundle.codec.encode_long(recording)})
  tokens = token_files.of_bundle(bundle, encoded.streams)
  token_file.save_tokens(FLAGS.output, tokens)
  print(
    f"{len(recording) / bundle.sample_rate:.2f} s: {len(encoded.semantic)} semantic tokens, "
    f"{encoded.codes.shape[0]} frames of {encoded.codes.shape[1]} codes in {FLAGS.output}"
  )


if __name__ == "__main__":
  run_cli(main, FLAGS)
