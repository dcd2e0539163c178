"""Recognizes the words of recordings with the transcript stage of a bundle.

  python -m audiolm_jax.transcribe --bundle my_bundle clip.wav
  python -m audiolm_jax.transcribe --bundle my_bundle --json a.wav b.flac

For one file, the command prints the text. For several files, it prints one line per file, with the
name and the text of the file.
"""

import json
from collections.abc import Sequence

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli, takes_arguments
from audiolm_jax.core.errors import UserError
from audiolm_jax.io import audio

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "bundle", "speech", "Name or folder of a bundle with a transcript stage.", flag_values=FLAGS
)
flags.DEFINE_float(
  "temperature",
  0.0,
  "Sampling temperature; 0 selects the most likely character.",
  flag_values=FLAGS,
)
flags.DEFINE_integer("seed", 0, "Random seed, for a temperature above 0.", flag_values=FLAGS)
flags.DEFINE_bool("json", False, "Print an array with an object for each file.", flag_values=FLAGS)


@takes_arguments
def main(argv: Sequence[str]) -> None:
  """Recognizes the words in each file and prints them."""
  paths = argv[1:]
  if not paths:
    raise UserError("give audio files: transcribe FILE...")
  for path in paths:
    audio.check_readable(path)
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.bundles import settings, transcription

  bundle = bundles.load_bundle(FLAGS.bundle)
  transcription.transcript_stage(bundle)
  found: list[dict[str, str]] = []
  for path in paths:
    waveform = audio.load_audio(path, bundle.sample_rate)
    settings.check_prompt(waveform, bundle.sample_rate, path)
    words = bundle.transcribe(
      waveform, bundle.sample_rate, temperature=FLAGS.temperature, seed=FLAGS.seed
    )
    found.append({"file": path, "text": words})
    if not FLAGS.json:
      print(words if len(paths) == 1 else f"{path}\t{words}", flush=True)
  if FLAGS.json:
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
  run_cli(main, FLAGS)
