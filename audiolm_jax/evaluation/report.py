"""Figures with their marks, as a table to read and as JSON."""

import csv
import dataclasses
import enum
import io
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.evaluation.statistics import Estimate, mean_estimate, ratio_estimate
from audiolm_jax.io.files import atomic_write


class Better(enum.StrEnum):
  """Which way a figure improves."""

  HIGHER = "higher"
  LOWER = "lower"


@dataclasses.dataclass(frozen=True)
class Row:
  """One figure.

  Attributes:
    suite: where it comes from.
    figure: what it is, with its unit.
    estimate: value, interval and number of observations.
    better: which way it improves.
    floor: what it must reach, or None.
    aim: what it should reach, or None.
    note: how to read it, or why it has no value.
  """

  suite: str
  figure: str
  estimate: Estimate
  better: Better = Better.HIGHER
  floor: float | None = None
  aim: float | None = None
  note: str = ""

  @property
  def verdict(self) -> str:
    """ "aim", "floor" or "short" by what is reached; empty where there is no mark."""
    if self.floor is None and self.aim is None:
      return ""
    if self._reaches(self.aim):
      return "aim"
    return "floor" if self._reaches(self.floor) else "short"

  def _reaches(self, mark: float | None) -> bool:
    if mark is None or math.isnan(self.estimate.value):
      return False
    if self.better is Better.HIGHER:
      return self.estimate.value >= mark
    return self.estimate.value <= mark


@dataclasses.dataclass(frozen=True)
class ClipFigure:
  """A figure before it is averaged, so that it can be averaged over some of the clips.

  Attributes:
    name: what it is, with its unit, and of what, such as `stoi, 4 levels`.
    values: of every clip, NaN where it has none; or pairs of counts, the figure being the ratio of
      their sums.
    better, note: as of `Row`.
  """

  name: str
  values: Float[np.ndarray, " clips"] | Int[np.ndarray, "clips 2"]
  better: Better = Better.HIGHER
  note: str = ""

  def row(self, suite: str, clips: Sequence[int] | None = None, label: str = "") -> Row:
    """The row over these clips, all by default; `label` follows its name."""
    values = self.values if clips is None else self.values[np.asarray(clips, int)]
    estimate = mean_estimate(values) if values.ndim == 1 else ratio_estimate(values)
    return Row(suite, self.name + label, estimate, self.better, note=self.note)


@dataclasses.dataclass(frozen=True)
class SuiteResult:
  """Rows for the table, and everything else worth keeping."""

  rows: list[Row]
  details: dict[str, Any]


def left_out(reason: str) -> SuiteResult:
  """Of a suite that cannot be run on what is given."""
  return SuiteResult([], {"left_out": reason})


def exact(value: float, n: int = 1) -> Estimate:
  """A figure that is not a sample's: no interval."""
  return Estimate(float(value), float(value), float(value), n)


def markdown_table(rows: Sequence[Row]) -> str:
  """The rows as a Markdown table."""
  lines = ["| suite | figure | value | 95 % interval | n | floor | aim | reached | note |"]
  lines.append("|---|---|---|---|---|---|---|---|---|")
  for row in rows:
    e = row.estimate
    interval = "" if e.low == e.high else f"{number(e.low)} to {number(e.high)}"
    cells = [row.suite, row.figure, number(e.value), interval, str(e.n)]
    cells += ["" if m is None else number(m) for m in (row.floor, row.aim)]
    lines.append("| " + " | ".join([*cells, row.verdict, row.note]) + " |")
  return "\n".join(lines)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
  """Writes dataclasses, arrays and plain values as JSON; NaN becomes null."""
  text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
  with atomic_write(path) as file:
    file.write((text + "\n").encode())


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
  """Writes the rows for a spreadsheet, all digits kept."""
  text = io.StringIO()
  table = csv.writer(text)
  table.writerow(["suite", "figure", "value", "low", "high", "n", "better", "floor", "aim", "note"])
  for row in rows:
    e = row.estimate
    table.writerow(
      [row.suite, row.figure, e.value, e.low, e.high, e.n, row.better, row.floor, row.aim, row.note]
    )
  with atomic_write(path) as file:
    file.write(text.getvalue().encode())


def number(value: float) -> str:
  """Three digits, or a whole number where it is large; "none" for NaN."""
  if math.isnan(value):
    return "none"
  return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _plain(value: Any) -> Any:
  if isinstance(value, Row):
    fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return fields | {"verdict": value.verdict}
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
