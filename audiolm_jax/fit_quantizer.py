r"""Fits new codebooks to the codec of a bundle; its encoder and decoder do not change.

  python -m audiolm_jax.fit_quantizer --bundle runs/lyra_v2 --data RECORDINGS \
      --num_quantizers 12 --codebook_size 1024 --output runs/lyra_12x1024

The first codebook is fitted to the latents by k-means, and each further codebook to the residuals
of the previous levels. Use this command for a published codec that has too many levels or too small
codebooks for the stages, or to adapt the codebooks to other recordings. The codes change, so the
stages, the detector and the watermark of the bundle are omitted; the semantic tokenizer is kept.
Use the result as --bundle of encode, decode, cache_tokens and export_bundle.
"""

from collections.abc import Sequence
from pathlib import Path

from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError

FLAGS = flags.FlagValues()
for _name, _text in {
  "bundle": "Name or folder of the bundle with the codec.",
  "data": "Folder of audio files, searched recursively, or a .jsonl manifest.",
  "output": "The folder to write; an existing bundle is replaced.",
  "name": "Name of the bundle; default: the name of the output folder.",
}.items():
  flags.DEFINE_string(_name, None, _text, flag_values=FLAGS)
flags.DEFINE_string("split", "train", "The split whose clips are used.", flag_values=FLAGS)
for _name, _default, _text in (
  ("num_quantizers", 12, "Residual levels."),
  ("codebook_size", 1024, "Entries per level."),
  ("seed", 0, "Seed of the sample of frames and of the clustering."),
  ("max_frames", 500_000, "If there are more frames, a uniform sample of this size is used."),
):
  flags.DEFINE_integer(_name, _default, _text, lower_bound=int(_name != "seed"), flag_values=FLAGS)
flags.DEFINE_float(
  "max_skipped_fraction", 0.01, "Share of clips that may be unreadable.", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
  """Fits the codebooks, writes the bundle and prints statistics of each level."""
  del argv
  for name in ("bundle", "data", "output"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is required; see --help")
  from audiolm_jax.bundles import Bundle, load_bundle, save_bundle
  from audiolm_jax.codec.residual_codec import ResidualCodec
  from audiolm_jax.core import compilation_cache
  from audiolm_jax.data.manifest import clips_of_split, list_clips
  from audiolm_jax.trainables.residual_codebooks import fit_codebooks

  compilation_cache.enable()
  base = load_bundle(FLAGS.bundle, stages=())
  if not isinstance(base.codec, ResidualCodec):
    raise UserError(
      f"a {type(base.codec).__name__} does not quantize its latents by residual codebooks alone; "
      "use a codec that does"
    )
  clips = clips_of_split(list_clips(FLAGS.data), FLAGS.split)
  codec, reports = fit_codebooks(
    base.codec,
    clips,
    num_quantizers=FLAGS.num_quantizers,
    codebook_size=FLAGS.codebook_size,
    seed=FLAGS.seed,
    max_frames=FLAGS.max_frames,
    max_skipped_fraction=FLAGS.max_skipped_fraction,
  )
  frames = reports[0].num_frames
  sentence = (
    f"The codec of {base.name} with {len(reports)} levels of {FLAGS.codebook_size} entries, fitted "
    f"to {frames} frames"
  )
  fitted = {"bundle": base.name, "frames": frames, "clips": len(clips), "seed": FLAGS.seed}
  bundle = Bundle(
    name=FLAGS.name or Path(FLAGS.output).resolve().name,
    codec=codec,
    semantic=base.semantic,
    description=f"{sentence}.",
    metadata={**base.metadata, "codebooks": fitted},
    model_card=f"{base.model_card.rstrip()}\n\n{sentence}.\n",
  )
  folder = save_bundle(bundle, FLAGS.output)
  for level, report in enumerate(reports):
    print(f"level {level}: perplexity {report.perplexity:.0f}, distortion {report.inertia[-1]:.4g}")
  print(f"{folder}: {sentence}; {codec.spec.bits_per_second / 1000:g} kbit/s")


if __name__ == "__main__":
  run_cli(main, FLAGS)
