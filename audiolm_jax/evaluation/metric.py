"""Metrics: measured quantities with key, title, unit and direction of improvement."""

import dataclasses
import enum


class Better(enum.StrEnum):
  """The direction in which the values of a metric improve."""

  HIGHER = "higher"
  LOWER = "lower"


@dataclasses.dataclass(frozen=True)
class Metric:
  """A quantity that is measured, such as STOI.

  Attributes:
    key: identifier in JSON and CSV; metrics of different quantities have different keys.
    title: name in tables and on the page.
    better: direction in which the values improve.
    unit: unit of the values; empty if the values have no unit or the title names the unit.
  """

  key: str
  title: str
  better: Better = Better.HIGHER
  unit: str = ""

  def __str__(self) -> str:
    return self.key

  def label(self, of: str = "") -> str:
    """Returns title, unit and `of`, the measured object, such as `SI-SDR, dB, 4 levels`."""
    return ", ".join(part for part in (self.title, self.unit, of) if part)
