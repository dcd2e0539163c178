r"""Compiles a training step for TPU slices that need not be present, and reports its cost.

  python -m audiolm_jax.aot_compile --gin_file=gin_configs/coarse_stage_base.gin \
    --topology=v5e:4x4,v5e:16x16 --sequences_per_chip=4

The command needs no TPU and no data, only the extra `tpu` of this package. It prints, for each
slice, the memory per chip, the data exchanged between chips, the compile time and the compiler's
estimate of the number of cycles. Only ratios of these estimates are meaningful. Exit codes: 0 all
limits are kept, 1 a limit is exceeded (see the end of the output), 2 an error that you can fix.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence

from audiolm_jax import train
from audiolm_jax.core.command_line import flags

FLAGS = train.gin_flags()
flags.DEFINE_list(
  "topology",
  ["v5e:4x4"],
  "Slices, such as v5e:4x4, v5e:16x16, v6e:16x16, v4:8x8x4; the others are compared with the "
  "first one.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_slices", 1, "Number of slices in one mesh.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "sequences_per_chip",
  None,
  "Batch size per chip; by default, BATCH_SIZE is the size of the whole batch.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "memory_share",
  0.8,
  "Largest share of a chip's memory for arguments and temporaries.",
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "compile_seconds", 0.0, "Longest compile time; 0 for no limit.", flag_values=FLAGS
)
flags.DEFINE_float(
  "cycle_ratio", 1.05, "Largest ratio of cycles to those on the first slice.", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Print one JSON object per slice.", flag_values=FLAGS)

# Settings that gin files require but compilation does not use.
_UNUSED = ("MODEL_DIR = 'none'", "MIXTURE_OR_TASK_NAME = 'none'")


def main(argv: Sequence[str]) -> None:
  """Compiles the training step for each slice, prints reports and checks the limits."""
  del argv
  # Only the compiler of libtpu is used; JAX must not look for a TPU.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from audiolm_jax.training import aot, tpu_topologies

  settings, _ = train.resolve(
    FLAGS.gin_file, [*_UNUSED, *FLAGS.gin_bindings], FLAGS.gin_search_paths
  )
  limits = aot.StepLimits(FLAGS.memory_share, FLAGS.compile_seconds, FLAGS.cycle_ratio)
  first, passed = None, []
  for topology in FLAGS.topology:
    dataset = settings["train_dataset"]
    if FLAGS.sequences_per_chip:
      chips = len(tpu_topologies.tpu_devices(topology, FLAGS.num_slices))
      dataset = dataclasses.replace(dataset, batch_size=FLAGS.sequences_per_chip * chips)
    report = aot.compile_step(
      settings["model"],
      dataset.batch_shapes(),
      settings["config"].partitioning,
      topology,
      FLAGS.num_slices,
    )
    print(json.dumps(report.as_dict()) if FLAGS.json else report.text(), flush=True)
    passed += [f"{report.topology}: {s}" for s in report.passed_limits(limits, first)]
    first = first or report
  for sentence in passed:
    print(f"limit exceeded: {sentence}", file=sys.stderr)
  if passed:
    sys.exit(1)


if __name__ == "__main__":
  train.run_gin_cli(main, FLAGS)
