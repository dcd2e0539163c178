"""Results of an evaluation with their floors and aims, as a table, as JSON and as CSV."""

import csv
import dataclasses
import enum
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Num

from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.statistics import Estimate, mean_estimate, ratio_estimate
from audiolm_jax.io.files import atomic_write


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a report: a measured value.

  Attributes:
    metric: metric of the value.
    estimate: value, interval and number of observations.
    of: object of the measurement, such as `4 levels` or `continuation`.
    floor: worst value that the project accepts; None for no floor.
    aim: value that the project aims for; None for no aim.
    note: how to interpret the value, or the reason why there is no value.
    values: the value of each clip, if the estimate is an average over clips; see `row_of`.
  """

  metric: Metric
  estimate: Estimate
  of: str = ""
  floor: float | None = None
  aim: float | None = None
  note: str = ""
  values: Num[np.ndarray, "clips *pair"] | None = dataclasses.field(
    default=None, compare=False, repr=False
  )

  @property
  def figure(self) -> str:
    """The title and unit of the metric, and `of`, such as `SI-SDR, dB, 4 levels`."""
    return self.metric.label(self.of)

  @property
  def verdict(self) -> str:
    """Which mark the value reaches: "aim", else "floor", else "short"; "" without floor and aim."""
    if self.floor is None and self.aim is None:
      return ""
    if self._reaches(self.aim):
      return "aim"
    return "floor" if self._reaches(self.floor) else "short"

  @property
  def clip_values(self) -> Num[np.ndarray, "clips *pair"]:
    """The value of each clip.

    Raises:
      ValueError: the estimate is not an average over clips.
    """
    if self.values is None:
      raise ValueError(f"{self.figure} is not an average over clips; make it with row_of")
    return self.values

  def over(self, clips: Sequence[int], label: str) -> "Row":
    """Returns a row for the clips with the given indices, without floor and aim.

    Args:
      clips: indices of the clips.
      label: text to append to `of`.

    Raises:
      ValueError: see `clip_values`.
    """
    values = self.clip_values[np.asarray(clips, int)]
    return row_of(self.metric, values, self.of + label, note=self.note)

  def _reaches(self, mark: float | None) -> bool:
    if mark is None or math.isnan(self.estimate.value):
      return False
    if self.metric.better is Better.HIGHER:
      return self.estimate.value >= mark
    return self.estimate.value <= mark


def row_of(
  metric: Metric,
  values: Sequence[float] | Float[np.ndarray, " clips"] | Int[np.ndarray, "clips 2"],
  of: str = "",
  *,
  floor: float | None = None,
  aim: float | None = None,
  note: str = "",
) -> Row:
  """Returns a row with the average of a metric over clips.

  Args:
    metric: metric of the values.
    values: one value for each clip, NaN for a clip without a value; or two counts for each clip.
      For counts, the estimate is the total of first counts divided by the total of second counts.
    of: see `Row`.
    floor: see `Row`.
    aim: see `Row`.
    note: see `Row`.
  """
  array = np.asarray(values)
  array = array if array.ndim == 2 else array.astype(np.float64)
  estimate = ratio_estimate(array) if array.ndim == 2 else mean_estimate(array)
  return Row(metric, estimate, of, floor, aim, note, array)


@dataclasses.dataclass(frozen=True)
class SuiteResult:
  """The results of a suite.

  Attributes:
    rows: rows of the table.
    details: other results, for the JSON file.
    pictures: names of picture files in the output folder, by caption.
    sounds: names of sound files in the output folder, by caption.
  """

  rows: list[Row]
  details: JsonDict
  pictures: dict[str, str] = dataclasses.field(default_factory=dict)
  sounds: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def skip_reason(self) -> str | None:
    """The reason why the suite was skipped; None if the suite ran."""
    return self.details.get("skipped")


def skipped(reason: str) -> SuiteResult:
  """Returns the result of a suite that cannot run with the given bundle, data or options."""
  return SuiteResult([], {"skipped": reason})


@dataclasses.dataclass
class Report:
  """The results of all suites, and the settings and versions that produced them.

  Attributes:
    bundle: name of the bundle.
    token_hash: hash of the bundle's tokenizers.
    flags: values of the command-line flags, by name.
    versions: versions of the packages that were used, by package.
    results: results by the name of the suite.
    seconds: wall time in seconds, by the name of the suite.
  """

  bundle: str
  token_hash: str
  flags: Json
  versions: Mapping[str, str]
  results: dict[str, SuiteResult] = dataclasses.field(default_factory=dict)
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def rows(self) -> dict[str, list[Row]]:
    """The rows of each suite that has rows, by the name of the suite."""
    return {name: result.rows for name, result in self.results.items() if result.rows}

  def as_json(self) -> JsonDict:
    """Returns the content of results.json."""
    details = {}
    for name, result in self.results.items():
      files = {"pictures": result.pictures, "sounds": result.sounds}
      details[name] = result.details | {kind: paths for kind, paths in files.items() if paths}
    return {
      "bundle": self.bundle,
      "token_hash": self.token_hash,
      "flags": self.flags,
      "versions": self.versions,
      "rows": list(_records(self.rows)),
      "details": details,
      "seconds": self.seconds,
    }


def markdown_table(rows: Mapping[str, Sequence[Row]]) -> str:
  """Returns the rows of all suites as one Markdown table."""
  lines = ["| suite | figure | value | 95 % interval | n | floor | aim | reached | note |"]
  lines.append("|---|---|---|---|---|---|---|---|---|")
  for suite, row in ((suite, row) for suite, of_suite in rows.items() for row in of_suite):
    e = row.estimate
    cells = [suite, row.figure, number(e.value), interval(e), str(e.n)]
    cells += ["" if m is None else number(m) for m in (row.floor, row.aim)]
    lines.append("| " + " | ".join([*cells, row.verdict, row.note]) + " |")
  return "\n".join(lines)


def write_json(path: str | os.PathLike[str], content: object) -> None:
  """Writes dataclasses, arrays and plain values as JSON; NaN and infinity become null."""
  text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
  with atomic_write(path) as file:
    file.write((text + "\n").encode())


def write_csv(path: str | os.PathLike[str], rows: Mapping[str, Sequence[Row]]) -> None:
  """Writes the rows of all suites as CSV, with all digits."""
  columns = ("suite", "metric", "of", "figure", "unit", "value", "low", "high", "n", "better")
  text = io.StringIO()
  table = csv.DictWriter(text, (*columns, "floor", "aim", "note"), extrasaction="ignore")
  table.writeheader()
  table.writerows(record | vars(record["estimate"]) for record in _records(rows))
  with atomic_write(path) as file:
    file.write(text.getvalue().encode())


def number(value: float) -> str:
  """Returns a value as text with three significant digits; "none" for NaN.

  Values of 999.5 or more in magnitude are rounded to whole numbers.
  """
  if math.isnan(value):
    return "none"
  rounded = f"{value:.3g}"
  return f"{value:.0f}" if abs(float(rounded)) >= 1000 else rounded


def interval(estimate: Estimate) -> str:
  """Returns the interval of an estimate as text; an empty string if there is no interval."""
  if not estimate.low < estimate.high:
    return ""
  return f"{number(estimate.low)} to {number(estimate.high)}"


def _records(rows: Mapping[str, Sequence[Row]]) -> Iterator[JsonDict]:
  """Yields each row as a dictionary with the field names of the JSON and CSV files."""
  for suite, of_suite in rows.items():
    for row in of_suite:
      yield {
        "suite": suite,
        "metric": row.metric.key,
        "of": row.of,
        "figure": row.figure,
        "unit": row.metric.unit,
        "estimate": row.estimate,
        "better": row.metric.better,
        "floor": row.floor,
        "aim": row.aim,
        "note": row.note,
        "verdict": row.verdict,
      }


def _plain(value: object) -> object:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, Mapping):
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
