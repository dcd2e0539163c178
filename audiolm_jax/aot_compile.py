"""Compiles a training step for TPU slices that are not there, and says what it would need.

  python -m audiolm_jax.aot_compile --gin_file=gin_configs/coarse_stage_base.gin \
    --topology=v5e:4x4,v5e:16x16 --sequences_per_chip=4

Needs no TPU and no data, only the extra `tpu`. Printed for each slice: memory per chip, what the
chips exchange, compile time, and the compiler's estimate of cycles, of use for ratios only. Exit
codes: 0 all limits kept, 1 one passed (said in the last lines), 2 something to mend.
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
  "Slices, such as v5e:4x4, v5e:16x16, v6e:16x16, v4:8x8x4; the first is what the others are "
  "compared with.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_slices", 1, "So many of each, as one mesh.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "sequences_per_chip",
  None,
  "Sets BATCH_SIZE to so many for each chip; default: as configured.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "memory_share",
  0.8,
  "Of a chip's memory that the step may use, arguments and temporaries.",
  flag_values=FLAGS,
)
flags.DEFINE_float("compile_seconds", 0.0, "That compiling may take; 0 for any.", flag_values=FLAGS)
flags.DEFINE_float(
  "cycle_ratio", 1.05, "Cycles against the first slice that are allowed.", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Print one JSON object a slice.", flag_values=FLAGS)

# What gin files ask for and a compiler does not.
_UNUSED = ("MODEL_DIR = 'none'", "MIXTURE_OR_TASK_NAME = 'none'")


def main(argv: Sequence[str]) -> None:
  """Compiles, prints, checks."""
  del argv
  # The compiler is libtpu's; JAX itself shall not look for a TPU.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from audiolm_jax.training import aot, tpu_topologies

  settings, _ = train.resolve(
    FLAGS.gin_file, [*_UNUSED, *FLAGS.gin_bindings], FLAGS.gin_search_paths
  )
  limits = aot.Limits(FLAGS.memory_share, FLAGS.compile_seconds, FLAGS.cycle_ratio)
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
    print(f"limit passed: {sentence}", file=sys.stderr)
  if passed:
    sys.exit(1)


if __name__ == "__main__":
  train.run_gin_cli(main, FLAGS)
