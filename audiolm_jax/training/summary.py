"""The summary at the end of a run: model, metrics, warnings and the next command."""

import dataclasses
import datetime
import re
import shlex
import statistics
from collections.abc import Sequence

from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.training.run_log import warning_kind
from audiolm_jax.training.throughput import TIMINGS

SUMMARY_FILE = "summary.txt"

# Rows of metrics.jsonl or warnings.jsonl, from old to new.
Rows = Sequence[Json]

_MOST_WARNINGS = 12


@dataclasses.dataclass(frozen=True)
class Ending:
  """The state of a run at the end of a call of the trainer.

  Attributes:
    component: see `Trainable.component`.
    next_command: see `Trainable.next_command`.
    model_dir: the run folder.
    how: reason why the call ended; "" if all steps are completed.
    step: number of completed steps.
    total_steps: number of steps in the configuration.
    batch_size: examples per step in all processes.
    parameters: number of parameters that inference needs.
    call_seconds: duration of this call in seconds.
    run_seconds: duration of all calls in seconds. An earlier call counts up to its last row of
      training metrics that the run kept.
    compile_seconds: compile time of training steps in this call, in seconds.
    checkpoints: steps of the saved checkpoints.
    rollbacks: for each rollback, the step to which the run returned.
    left_out: one line of text for each split with skipped clips.
    versions: result of `run_folder.versions`, with the key `run_folder.PRODUCTS`.
  """

  component: str
  next_command: str
  model_dir: str
  how: str
  step: int
  total_steps: int
  batch_size: int
  parameters: int
  call_seconds: float
  run_seconds: float
  compile_seconds: float
  checkpoints: Sequence[int]
  rollbacks: Sequence[int]
  left_out: Sequence[str]
  versions: Json


def in_one_line(ending: Ending, rows: Rows) -> str:
  """Returns one line with the steps, the time, the held-out loss and the path of summary.txt.

  Args:
    ending: the state of the run.
    rows: rows of metrics.jsonl.
  """
  losses = [(row["loss"], row["step"]) for row in _of(rows, "eval") if "loss" in row]
  held_out = ""
  if losses:
    best, at = min(losses)
    held_out = f", held-out loss {losses[-1][0]:.4g} (lowest {best:.4g} at step {at})"
  return (
    f"{ending.component}: {ending.step} of {ending.total_steps} steps in "
    f"{_time(ending.run_seconds)}{held_out}; see {ending.model_dir}/{SUMMARY_FILE}"
  )


def page(ending: Ending, rows: Rows, warnings: Rows) -> str:
  """Returns the content of summary.txt.

  Args:
    ending: the state of the run.
    rows: rows of metrics.jsonl.
    warnings: rows of warnings.jsonl.
  """
  parts = [
    _labelled(_facts(ending, rows)),
    _table("Training", [_without_levels(row) for row in _of(rows, "train")]),
    _table("Held-out", _of(rows, "eval")),
    _warnings(warnings),
    _labelled(_made_with(ending.versions)),
    _next_step(ending),
  ]
  return "\n".join(part for part in parts if part)


def _facts(ending: Ending, rows: Rows) -> list[tuple[str, str]]:
  training = _of(rows, "train")
  skipped = sum(row.get("skipped_steps", 0) for row in training)
  kept = ", ".join(str(step) for step in ending.checkpoints) or "none"
  facts = [
    ("Trained", f"{ending.component}, {ending.parameters:,} parameters"),
    ("Steps", f"{ending.step:,} of {ending.total_steps:,}, {ending.how or 'finished'}"),
    (
      "Time",
      f"{_time(ending.call_seconds)} in this call ({_time(ending.compile_seconds)} to compile), "
      f"{_time(ending.run_seconds)} in total",
    ),
    ("Data", ", ".join([f"{ending.step * ending.batch_size:,} examples", *_amounts(training)])),
    ("Speed", _speed(training)),
    ("Checkpoints", kept),
    ("Skipped", f"{skipped:.0f} non-finite updates"),
    ("Rolled back", ", ".join(f"to step {step}" for step in ending.rollbacks) or "never"),
  ]
  return facts + [("Left out", line) for line in ending.left_out or ["no clips"]]


def _amounts(training: Rows) -> list[str]:
  """Returns the number of tokens and the hours of audio in the logged steps, as text."""
  totals = {"tokens": 0.0, "audio_seconds": 0.0}
  before = 0
  for row in training:
    for name in totals:
      per_step = row.get(f"{name}_per_second", 0.0) / row.get("steps_per_second", 1.0)
      totals[name] += per_step * (row["step"] - before)
    before = row["step"]
  found = [f"{totals['tokens']:,.0f} tokens"] if totals["tokens"] else []
  if totals["audio_seconds"]:
    found.append(f"{totals['audio_seconds'] / 3600:,.2f} hours of audio")
  return found


def _speed(training: Rows) -> str:
  """Returns the median of each rate over the rows; compilation changes a median little."""

  def median(name: str) -> float | None:
    values = [row[name] for row in training if name in row]
    return statistics.median(values) if values else None

  forms = {
    "steps_per_second": "{:.3g} steps/s",
    "tokens_per_second": "{:,.0f} tokens/s",
    "audio_seconds_per_second": "{:,.1f} s of audio/s",
    "model_flops_per_second": "{:.3g} model FLOP/s",
    "mfu": "{:.1%} of the devices' peak (MFU)",
    "data_wait_share": "{:.0%} of the time waiting for data",
  }
  shown = [form.format(m) for name, form in forms.items() if (m := median(name)) is not None]
  return ", ".join(shown) or "not measured"


def _table(title: str, rows: Rows) -> str:
  """Returns a table of the first, last, lowest and highest value of each metric, with steps.

  Returns "" if there are no metrics.
  """
  names = sorted({n for row in rows for n in row} - TIMINGS - {"step", "split", "skipped_steps"})
  names.sort(key=lambda n: (n != "loss", _split_number(n)))
  if not names:
    return ""
  lines = [f"{title:26}{'first':>20}{'last':>20}{'lowest':>20}{'highest':>20}"]
  for name in names:
    series = [(row[name], row["step"]) for row in rows if name in row]
    cells = (series[0], series[-1], min(series), max(series))
    lines.append(f"  {name:24}" + "".join(f"{f'{v:.4g} @{step}':>20}" for v, step in cells))
  return "\n".join(lines) + "\n"


def _warnings(warnings: Rows) -> str:
  """Returns one line for each kind of warning, with the text of the latest warning."""
  kinds: dict[str, list[Json]] = {}
  for warning in warnings:
    kinds.setdefault(warning_kind(warning["text"]), []).append(warning)
  if not kinds:
    return "Warnings: none\n"
  lines = ["Warnings"]
  for same in list(kinds.values())[:_MOST_WARNINGS]:
    first, last = same[0]["step"], same[-1]["step"]
    when = f"step {last}" if len(same) == 1 else f"{len(same)} times, steps {first} to {last}"
    lines.append(f"  {when}: {same[-1]['text']}")
  if len(kinds) > _MOST_WARNINGS:
    lines.append(f"  and {len(kinds) - _MOST_WARNINGS} more kinds, see warnings.jsonl")
  return "\n".join(lines) + "\n"


def _made_with(versions: Json) -> list[tuple[str, str]]:
  packages = ", ".join(f"{name} {version}" for name, version in versions["packages"].items())
  commit = versions["git_commit"] or "unknown"
  if versions["git_dirty"]:
    commit += ", with uncommitted changes"
  return [
    ("Devices", f"{versions['device_count']} x {', '.join(versions['devices'])}"),
    ("Products", f"{versions['products']} in training"),
    ("Versions", f"Python {versions['python']}, {packages}"),
    ("Git commit", commit),
  ]


def _next_step(ending: Ending) -> str:
  if ending.how:
    program, *arguments = ending.versions["command"]
    program = re.sub(r"^.*audiolm_jax/train\.py$", "-m audiolm_jax.train", program)
    return f"To resume\n  python {program} {shlex.join(arguments)}\n"
  following = ending.next_command.format(dir=shlex.quote(ending.model_dir))
  return f"Next\n  {following}\n" if following else ""


def _of(rows: Rows, split: str) -> Rows:
  return [row for row in rows if row["split"] == split]


def _without_levels(row: Json) -> JsonDict:
  """Returns a row without the metrics of single quantizer levels, whose names end in a number."""
  return {name: value for name, value in row.items() if not re.search(r"_\d+$", name)}


def _split_number(name: str) -> tuple[str, int]:
  """Returns a sort key for a name, such that level 10 follows level 9."""
  found = re.fullmatch(r"(.*?)_?(\d*)", name)
  return (found[1], int(found[2] or -1)) if found else (name, -1)


def _labelled(pairs: Sequence[tuple[str, str]]) -> str:
  return "\n".join(f"{label:13}{text}" for label, text in pairs) + "\n"


def _time(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))
