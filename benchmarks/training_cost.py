"""Estimates the cost of training the paper's models from their FLOPs and an assumed utilisation.

  python -m benchmarks.training_cost > launch/cost.md

Nothing is measured: utilisation and prices are assumptions, which flags set.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from audiolm_jax import train
from audiolm_jax.core.command_line import run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.trainables.codec import CodecTrainable
from audiolm_jax.training.accelerators import PEAK_FLOPS
from benchmarks.models import UNSET

FLAGS = flags.FlagValues()

for _name, _value, _text in (
  ("utilisation", 0.4, "Share of the peak, for the semantic encoder and the stages."),
  ("codec_utilisation", 0.1, "Share of the peak, for the codec: float32, narrow convolutions."),
  ("tpu_price", 1.2, "Dollars per hour of one v5e chip."),
  ("gpu_price", 3.0, "Dollars per hour of one H100."),
):
  flags.DEFINE_float(_name, _value, _text, lower_bound=1e-9, flag_values=FLAGS)
flags.DEFINE_string("price_date", "November 2026", "Date of the prices.", flag_values=FLAGS)

MODELS = (
  "codec_base",
  "semantic_encoder_xl",
  "semantic_stage_base",
  "coarse_stage_base",
  "fine_stage_base",
)


@dataclasses.dataclass(frozen=True)
class Machine:
  """Devices that train together: their number, their kind in JAX, dollars per hour of one."""

  name: str
  count: int
  device_kind: str
  price: float


@dataclasses.dataclass(frozen=True)
class Need:
  """Demand of one configuration: FLOPs of a late step, steps, and the assumed utilisation."""

  name: str
  batch_size: int
  flops_per_step: float
  steps: int
  utilisation: float

  def hours(self, machine: Machine) -> float:
    """Returns the hours on the whole machine."""
    peak = machine.count * PEAK_FLOPS[machine.device_kind]
    return self.flops_per_step * self.steps / (peak * self.utilisation) / 3600


def main(argv: Sequence[str]) -> None:
  """Prints the page."""
  del argv
  if max(FLAGS.utilisation, FLAGS.codec_utilisation) > 1:
    raise UserError("--utilisation and --codec_utilisation are shares, at most 1")
  print(page(), end="")


def page() -> str:
  """Returns the page in Markdown."""
  machines = (
    Machine("v5e-16", 16, "TPU v5 lite", FLAGS.tpu_price),
    Machine("8 x H100", 8, "NVIDIA H100", FLAGS.gpu_price),
  )
  needs = [need(name) for name in MODELS]
  lines = [_HEAD.format(**{name: FLAGS[name].value for name in FLAGS}), *_table(needs, machines)]
  return "\n".join([*lines, _FOOT])


def need(name: str) -> Need:
  """Returns the demand of `gin_configs/<name>.gin`."""
  settings, _ = train.resolve([f"gin_configs/{name}.gin"], UNSET)
  model, dataset = settings["model"], settings["train_dataset"]
  steps = settings["config"].total_steps
  rows, batch = dataset.batch_size, dataset.batch_shapes()
  codec = isinstance(model, CodecTrainable)
  return Need(
    name,
    rows,
    model.flops_per_step(batch, steps - 1),
    steps,
    FLAGS.codec_utilisation if codec else FLAGS.utilisation,
  )


def _table(needs: Sequence[Need], machines: Sequence[Machine]) -> list[str]:
  columns = ["configuration", "batch", "PFLOP per step", "steps", "EFLOP"]
  columns += [f"{m.name}: {what}" for m in machines for what in ("device-hours", "days", "$")]
  lines = [_row(columns), _row(["---", *["---:"] * (len(columns) - 1)])]
  for n in needs:
    cells = [n.name, str(n.batch_size), f"{n.flops_per_step / 1e15:.3g}", f"{n.steps:,}"]
    cells.append(f"{n.flops_per_step * n.steps / 1e18:,.0f}")
    lines.append(_row(cells + [c for m in machines for c in _cost(n.hours(m), m)]))
  totals = [c for m in machines for c in _cost(sum(n.hours(m) for n in needs), m)]
  total = sum(n.flops_per_step * n.steps for n in needs) / 1e18
  return [*lines, _row(["all, in sequence", "", "", "", f"{total:,.0f}", *totals])]


def _cost(hours: float, machine: Machine) -> list[str]:
  device_hours = hours * machine.count
  return [f"{device_hours:,.0f}", f"{hours / 24:,.1f}", f"{device_hours * machine.price:,.0f}"]


def _row(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


_HEAD = """\
Estimated cost of training the paper's configurations in `gin_configs/`. Computed from the FLOPs of
the models (`flops_per_step`, which tests compare with XLA's count), not measured.

- Assumed utilisation: {utilisation:.0%} of the devices' bfloat16 peak for the semantic encoder
  and the stages, {codec_utilisation:.0%} for the codec, whose convolutions are narrow, in float32.
  Rematerialization is not counted, so {utilisation:.0%} would be a good result.
- Example prices of {price_date}, to be replaced by your own: ${tpu_price:.2f} per hour of a v5e
  chip, ${gpu_price:.2f} of an H100.

`python -m benchmarks.training_cost --tpu_price=... --gpu_price=... --utilisation=...` prints this
page with other assumptions.
"""

_FOOT = """
The three stages are independent and can be trained at the same time. The table does not include
compilation, evaluation, tokenizing the corpus, failed runs and storage. Whether a batch fits the
memory of these devices was not checked; the paper used more devices.
"""


if __name__ == "__main__":
  run_cli(main, FLAGS)
