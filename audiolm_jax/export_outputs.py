r"""Exports units, sounds and likelihoods of a bundle in the formats of other evaluation tools.

  python -m audiolm_jax.export_outputs units --items dev-clean.item --data LibriSpeech/dev-clean \
    --output_dir units
  python -m audiolm_jax.export_outputs codec --data samples/librispeech --output_dir codec
  python -m audiolm_jax.export_outputs likelihoods --pairs salmon_benchmark --output_dir scores

The kinds of outputs, and the tools that read them:

  units          features and units of the files of ABX items, for fastabx
  codec          recordings, encoded and decoded by the codec, for Codec-SUPERB and VERSA
  resynthesis    recordings, resynthesized from their semantic tokens, for VERSA
  continuations  continuations of the first seconds of recordings, for VERSA
  likelihoods    log probabilities of pairs of sounds, for ZeroSpeech 2021 and SALMon

This command does not need these tools. It also writes `export.json` with the name and the hash of
the bundle, the version of this package and the settings. docs/how-we-compare.md contains the
command lines of the tools.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli, takes_arguments
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import UserError
from audiolm_jax.io import audio

if TYPE_CHECKING:  # bundles import JAX
  import numpy as np

  from audiolm_jax.bundles import Bundle
  from audiolm_jax.evaluation.exports.sounds import Render

_NEEDS = {  # required flags of each kind of outputs
  "units": ("items", "data"),
  "codec": ("data",),
  "resynthesis": ("data",),
  "continuations": ("data",),
  "likelihoods": ("pairs",),
}

FLAGS = flags.FlagValues()
for _name, _default, _text in (
  ("bundle", "speech", "Name or folder of the bundle."),
  ("output_dir", None, "Folder to write to."),
  ("data", None, "Folder or manifest of recordings; for units, the folder of the items' files."),
  ("split", None, "Split of the recordings; default: all."),
  ("items", None, "ABX items in the Libri-Light format, for units."),
  ("pairs", None, "Pairs of sounds, for likelihoods: folder or .jsonl manifest."),
):
  flags.DEFINE_string(_name, _default, _text, flag_values=FLAGS)
flags.DEFINE_integer(
  "num_quantizers", None, "Levels of the codec to decode, for codec; default: all.", 1,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float("prompt_seconds", 3.0, "Length of a prompt.", 0.5, flag_values=FLAGS)
flags.DEFINE_float("duration", 7.0, "Length of a continuation, seconds.", 0.5, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of sampling.", 0, flag_values=FLAGS)


@takes_arguments
def main(argv: Sequence[str]) -> None:
  """Writes one kind of outputs."""
  if len(argv) != 2 or argv[1] not in _NEEDS:
    raise UserError(f"name one kind of outputs: {', '.join(_NEEDS)}; see --help")
  kind = argv[1]
  for name in (*_NEEDS[kind], "output_dir"):
    if not FLAGS[name].value:
      raise UserError(f"{kind} needs --{name}; see --help")
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.core.version import __version__
  from audiolm_jax.evaluation.exports import files
  from audiolm_jax.evaluation.report import write_json

  bundle = bundles.load_bundle(FLAGS.bundle, stages=() if kind in ("units", "codec") else None)
  files.make_folder(FLAGS.output_dir)
  found = _export(kind, bundle)
  made_by = {"bundle": bundle.name, "token_hash": bundle.token_hash, "version": __version__}
  settings = {name: FLAGS[name].value for name in FLAGS}
  facts = {"outputs": kind, **made_by, "settings": settings, **found}
  write_json(os.path.join(FLAGS.output_dir, "export.json"), facts)
  print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in found.items()))
  print(f"wrote {FLAGS.output_dir}")


def _export(kind: str, bundle: "Bundle") -> JsonDict:
  from audiolm_jax.evaluation import abx, pairs
  from audiolm_jax.evaluation.exports import likelihoods, sounds, units
  from audiolm_jax.evaluation.suites import content

  output_dir = FLAGS.output_dir

  def load(path: str) -> "np.ndarray":
    return audio.load_audio(path, bundle.sample_rate)

  if kind == "units":
    folder = content.items_folder(FLAGS.data)
    read = content.reader_of(folder, lambda path: (path, load(path)))
    return units.export_units(bundle, abx.read_items(FLAGS.items), read, output_dir)
  if kind == "likelihoods":
    found = pairs.read_pairs(FLAGS.pairs)
    return likelihoods.export_likelihoods(bundle, found, load, output_dir)
  _check_outside(output_dir, FLAGS.data)
  recordings = sounds.list_recordings(FLAGS.data, FLAGS.split)
  if kind == "continuations":
    return sounds.export_continuations(
      bundle,
      recordings,
      output_dir,
      prompt_seconds=FLAGS.prompt_seconds,
      duration=FLAGS.duration,
      seed=FLAGS.seed,
    )
  render = _codec(bundle) if kind == "codec" else _resynthesis(bundle)
  return sounds.export_rendered(bundle, recordings, kind, render, output_dir)


def _check_outside(output_dir: str, data: str) -> None:
  """Raises `UserError` if `output_dir` is in `data`: a later run would read the exported sounds."""
  folder, inside = os.path.realpath(data), os.path.realpath(output_dir)
  if os.path.isdir(folder) and os.path.commonpath([folder, inside]) == folder:
    raise UserError(f"--output_dir={output_dir} is in the folder {data}; choose another one")


def _codec(bundle: "Bundle") -> "Render":
  from audiolm_jax.evaluation.codec import through_codec

  levels, every = FLAGS.num_quantizers, bundle.codec.spec.num_quantizers
  if levels is not None and levels > every:
    raise UserError(f"--num_quantizers={levels}: the codec of {bundle.name} has {every} levels")
  return lambda waveform, index: through_codec(bundle.codec, waveform, levels)


def _resynthesis(bundle: "Bundle") -> "Render":
  def render(waveform: "np.ndarray", index: int) -> "np.ndarray":
    made = bundle.continue_audio(
      waveform, bundle.sample_rate, mode="resynthesis", seed=FLAGS.seed + index
    )
    return made.waveform

  return render


if __name__ == "__main__":
  run_cli(main, FLAGS)
