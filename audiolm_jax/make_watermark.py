"""Adds a watermark to a bundle: a key, and communities of codes that re-encoding confuses.

  python -m audiolm_jax.make_watermark --bundle=my_bundle --data=RECORDINGS --output=my_bundle

Recordings of the split `train` are encoded, decoded, passed through channels such as MP3 and noise,
and encoded again. Codes that are often confused with each other form communities; the package
scikit-network computes them. The command prints, for each channel and level, the share of the codes
that keep their community. It writes the bundle with the communities and a public key, with which
sampling marks new samples by default. docs/concepts/watermark.md explains the printed values.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from audiolm_jax.core import arguments, compilation_cache
from audiolm_jax.core.command_line import check_given, flags, run_cli
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.core.ranges import Range

if TYPE_CHECKING:
  from audiolm_jax.bundles import Bundle
  from audiolm_jax.detection.watermark import WatermarkConfig

FLAGS = flags.FlagValues()
for _name, _text in {
  "bundle": "Name or folder of the bundle.",
  "data": "Folder or manifest of recordings.",
  "output": "The folder to write. An existing bundle is replaced.",
}.items():
  flags.DEFINE_string(_name, None, _text, flag_values=FLAGS)
for _name, _number, _text in (
  ("levels", 4, "Number of marked levels."),
  ("max_clips", 300, "Maximum number of pieces of recordings."),
  ("seed", 0, "Seed of the choice of pieces, of the offsets and of the key."),
):
  flags.DEFINE_integer(_name, _number, _text, flag_values=FLAGS)
for _name, _text in {
  "period": "Frames after which positions, the context, repeat; default 100, 0 (none) for gumbel.",
  "frames": "Earlier frames in the context instead; default 0, and 2 for gumbel.",
  "coarser": "Coarser levels in the context instead; default 0.",
}.items():
  flags.DEFINE_integer(_name, None, _text, flag_values=FLAGS)
flags.DEFINE_list(
  "weights", None,
  "Weights of the levels in detection, the others have 1; default 3, and none without a period.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
  "kind", "green_list", ["green_list", "gumbel"],
  "A bias of green communities, or noise of the key that keeps the distribution of the codes.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  "strength", None, "Default bias of green codes; default 2, and 1 for gumbel, which has none.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float("piece_seconds", 8.0, "Length of the pieces.", 1.0, flag_values=FLAGS)
flags.DEFINE_string("split", "train", "Split of the recordings to use.", flag_values=FLAGS)
flags.DEFINE_enum(
  "storage", "float32", ["float32", "float16", "int8"], "Number format of the weights.",
  flag_values=FLAGS,
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Computes the communities, prints how often codes keep their community, writes the bundle."""
  del argv
  check_given(FLAGS, "bundle", "data", "output")
  compilation_cache.enable()
  import dataclasses

  import numpy as np

  from audiolm_jax.bundles import load_bundle, save_bundle
  from audiolm_jax.detection.watermark import Watermark
  from audiolm_jax.evaluation import communities
  from audiolm_jax.evaluation.clips import load_pieces

  communities.check_installed()
  bundle = load_bundle(FLAGS.bundle)
  config = _config(bundle)
  pieces = load_pieces(
    FLAGS.data,
    FLAGS.split,
    bundle.sample_rate,
    max_clips=arguments.whole(FLAGS.max_clips, "--max_clips", Range(1, 1_000_000)),
    piece_seconds=FLAGS.piece_seconds,
    seed=FLAGS.seed,
  )
  if not pieces:
    raise DataError(f"{FLAGS.data} has no {FLAGS.split} clip of 1 s")
  counts = communities.confusions(
    bundle.codec,
    [piece.waveform for piece in pieces],
    communities.channels(bundle.sample_rate),
    config.levels,
    FLAGS.seed,
  )
  codebooks = np.asarray(bundle.codec.codebooks)
  found = np.stack(
    [
      communities.communities_of(
        np.sum([of[level] for of in counts.confused.values()], axis=0),
        counts.following[level],
        codebooks[level],
        config.period,
      )
      for level in range(config.levels)
    ]
  )
  table = communities.table(counts, found)
  _show(table)
  metadata = {**bundle.metadata, "watermark": table}
  marked = dataclasses.replace(bundle, watermark=Watermark(config, found), metadata=metadata)
  print(f"wrote {save_bundle(marked, FLAGS.output, storage=FLAGS.storage)}")


def _config(bundle: "Bundle") -> "WatermarkConfig":
  from audiolm_jax.detection.watermark import (
    PERIOD,
    PERIODS,
    STRENGTHS,
    WatermarkConfig,
    WatermarkKind,
  )

  spec = bundle.codec.spec
  parallel = any(stage.spec.samples_windows for stage in bundle.stages.values())
  kind = WatermarkKind(FLAGS.kind)
  is_gumbel = kind is WatermarkKind.GUMBEL
  if parallel and is_gumbel:
    raise UserError(
      "--kind=gumbel: a parallel stage does not sample its codes in the order of time; set it to "
      "green_list"
    )
  frames = 2 * is_gumbel if FLAGS.frames is None else FLAGS.frames
  coarser, period = FLAGS.coarser or 0, FLAGS.period
  if period is None:
    period = 0 if is_gumbel or frames or coarser else PERIOD
  if parallel and frames:
    raise UserError("--frames: a parallel stage has no earlier frames; set it to 0")
  entries = Range(0, 4)
  strength = (1.0 if is_gumbel else 2.0) if FLAGS.strength is None else FLAGS.strength
  seed = f"{bundle.token_hash} {FLAGS.seed}"
  return WatermarkConfig(
    levels=arguments.whole(FLAGS.levels, "--levels", Range(1, spec.num_quantizers)),
    codebook_size=spec.codebook_size,
    key=hashlib.sha256(seed.encode()).hexdigest()[:32],
    strength=arguments.number(strength, "--strength", STRENGTHS),
    frames=arguments.whole(frames, "--frames", entries),
    coarser=arguments.whole(coarser, "--coarser", entries),
    kind=kind,
    period=arguments.whole(period, "--period", PERIODS),
    weights=_weights(period),
  )


def _weights(period: int) -> tuple[int, ...]:
  if FLAGS.weights is None:
    return (3,) if period else ()
  try:
    return tuple(int(weight) for weight in FLAGS.weights)
  except ValueError:
    raise UserError(
      f"--weights {','.join(FLAGS.weights)} is not a list of whole numbers, such as 3,1"
    ) from None


def _show(table: dict[str, list[dict[str, float]]]) -> None:
  """Prints a line of statistics for each channel and level."""
  print(f"{'':20} level  survive  chance  corrected  choice  effective communities")
  for name, rows in table.items():
    for level, row in enumerate(rows):
      print(
        f"{name:20} {level + 1:5}  {row['share']:7.3f}  {row['chance']:6.3f}  "
        f"{row['corrected']:9.3f}  {row['choice']:6.3f}  {row['effective']:9.1f}"
      )


if __name__ == "__main__":
  run_cli(main, FLAGS)
