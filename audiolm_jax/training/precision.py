"""Chooses the precision of the matrix products of a run."""

from pathlib import Path

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.products import Precision, fastest_precision
from audiolm_jax.training import run_folder
from audiolm_jax.training.processes import agreed

# The setting that keeps the precision of a resumed run and selects the fastest for a new run.
AUTO = "auto"
# Indexed by whether bfloat16 products are faster.
_PRECISIONS = (Precision.FLOAT32, Precision.BFLOAT16)


def choose(setting: str, model_dir: Path, resumed: bool) -> tuple[Precision, str]:
  """Returns the precision of a run and the reason for it.

  Args:
    setting: a precision, or `AUTO`. `AUTO` keeps the precision of a resumed run, and selects the
      faster precision on this machine for a new run.
    model_dir: folder of the run.
    resumed: whether the run has a checkpoint.

  Raises:
    ConfigError: `setting` is `AUTO`, and the precision of the resumed run is not recorded.
  """
  before = run_folder.recorded_precision(model_dir) if resumed else None
  # All hosts must run the same program, although their processors may differ.
  fastest = _PRECISIONS[agreed(fastest_precision() is Precision.BFLOAT16)]
  if setting != AUTO:
    chosen, why = Precision(setting), "as configured"
    if before and before is not chosen:
      why += f"; {before} until this checkpoint"
    return chosen, why
  if not resumed:
    return fastest, "the faster precision on this machine"
  if before is None:
    raise ConfigError(
      f"{model_dir / run_folder.VERSIONS_FILE} does not contain the precision of this run's "
      f"products; set PRODUCTS to {Precision.FLOAT32} or {Precision.BFLOAT16}"
    )
  why = "as before"
  if before is not fastest:
    why += f"; {fastest} is faster on this machine, --gin.PRODUCTS=\"'{fastest}'\" selects it"
  return before, why
