"""Checks whether sampling works on this machine, and prints how to fix each fault.

  python -m audiolm_jax.doctor
  python -m audiolm_jax.doctor --json
  python -m audiolm_jax.doctor --bundle runs/my_bundle

The command checks versions, devices, memory, the cache of compiled programs, optional packages and
bundles, and then samples 0.4 s of audio with --bundle. Exit codes: 0 sampling works, 1 sampling
does not work. Lines that begin with "absent" or "warning" do not prevent sampling.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from audiolm_jax.core.command_line import flags, reports_environment, run_cli

if TYPE_CHECKING:
  from audiolm_jax.diagnosis.checks import Check

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "bundle", "speech", "Name or folder of the bundle to sample with.", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Print one object, with a list of checks.", flag_values=FLAGS)


@reports_environment
def main(argv: Sequence[str]) -> int:
  """Runs and prints all checks; returns the exit code."""
  del argv
  from audiolm_jax.diagnosis import checks

  found = []
  for check in checks.run_checks(FLAGS.bundle):
    found.append(check)
    if not FLAGS.json:
      _show(check)
  works = not any(check.status is checks.Status.BROKEN for check in found)
  if FLAGS.json:
    rows = [dataclasses.asdict(check) for check in found]
    print(json.dumps({"sampling_works": works, "checks": rows}, indent=1))
  else:
    print("\nsampling works" if works else "\nsampling does not work: fix what is broken above")
  return 0 if works else 1


def _show(check: "Check") -> None:
  print(f"{check.status:<8} {check.name:<18} {check.found}", flush=True)
  if check.fix:
    print(f"{'':<8} {'':<18} fix: {check.fix}", flush=True)


if __name__ == "__main__":
  run_cli(main, FLAGS)
