"""Decodes a file of tokens, written by `encode` or `sample --save_tokens`, to an audio file.

python -m audiolm_jax.decode tokens.npz --output out.wav
"""

from collections.abc import Sequence

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli, takes_arguments
from audiolm_jax.core.errors import UserError
from audiolm_jax.io import audio, files, token_file

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", None, "The audio file to write.", flag_values=FLAGS)
flags.DEFINE_string(
  "bundle",
  None,
  "Name or folder of the bundle to decode with; default: the one named in the file.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_quantizers", None, "Number of levels to decode; default: all.", flag_values=FLAGS
)


@takes_arguments
def main(argv: Sequence[str]) -> None:
  """Decodes a file of tokens and writes the audio file."""
  if len(argv) != 2:
    raise UserError(
      f"give one file of tokens, not {len(argv) - 1}: decode tokens.npz --output OUT.wav"
    )
  if not FLAGS.output:
    raise UserError("--output is required: the audio file to write")
  audio.check_output_format(FLAGS.output)
  files.check_writable(FLAGS.output, argv[1:])
  tokens = token_file.load_tokens(argv[1])
  compilation_cache.enable()
  from audiolm_jax import bundles

  if not FLAGS.bundle and tokens.bundle not in bundles.list_bundles():
    raise UserError(
      f"{argv[1]} was encoded with the bundle {tokens.bundle!r}, which is not a shipped one; "
      "pass the folder of that bundle as --bundle"
    )
  bundle = bundles.load_bundle(FLAGS.bundle or tokens.bundle, stages=())
  if bundle.token_hash != tokens.token_hash:
    raise UserError(
      f"{argv[1]} was encoded by the tokenizers of bundle {tokens.bundle!r} "
      f"({tokens.token_hash}), but {bundle.name!r} has others ({bundle.token_hash}); "
      "pass the folder of that bundle as --bundle, or encode the audio again"
    )
  levels = tokens.codes.shape[1] if FLAGS.num_quantizers is None else FLAGS.num_quantizers
  if not 1 <= levels <= tokens.codes.shape[1]:
    raise UserError(
      f"--num_quantizers {levels} is not in 1..{tokens.codes.shape[1]}, the levels in {argv[1]}"
    )
  waveform = bundle.decode(tokens.codes[:, :levels])
  audio.write_audio(FLAGS.output, waveform, bundle.sample_rate)
  print(f"{len(waveform) / bundle.sample_rate:.2f} s in {FLAGS.output}")


if __name__ == "__main__":
  run_cli(main, FLAGS)
