import json
import math

import numpy as np
import pytest

from audiolm_jax.evaluation import report
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.report import Report, Row, SuiteResult, row_of
from audiolm_jax.evaluation.statistics import Estimate, exact


@pytest.mark.parametrize(
  ("value", "better", "floor", "aim", "verdict"),
  [
    (0.95, Better.HIGHER, 0.5, 0.9, "aim"),
    (0.7, Better.HIGHER, 0.5, 0.9, "floor"),
    (0.4, Better.HIGHER, 0.5, 0.9, "short"),
    (30.0, Better.LOWER, 40.0, 10.0, "floor"),
    (9.0, Better.LOWER, 40.0, 10.0, "aim"),
    (math.nan, Better.HIGHER, 0.5, 0.9, "short"),
    (1.0, Better.HIGHER, None, None, ""),
  ],
)
def test_the_verdict_is_the_mark_that_is_reached(value, better, floor, aim, verdict):
  metric = Metric("m", "metric", better)
  assert Row(metric, exact(value), floor=floor, aim=aim).verdict == verdict


SI_SDR = Metric("si_sdr_db", "SI-SDR", unit="dB")
EMPTY = Metric("empty", "empty")


def test_table_and_json_hold_every_row(tmp_path):
  rows = [
    Row(SI_SDR, Estimate(0.85, 0.8, 0.9, 12), "4 levels", floor=0.8, aim=0.909),
    Row(EMPTY, exact(math.nan, 0)),
  ]
  results = Report("bundle", "hash", {"seed": 0}, {"jax": "1.0"})
  results.results["codec"] = SuiteResult(rows, {"array": np.arange(2), SI_SDR: np.float32(1.5)})  # pyright: ignore[reportArgumentType]: what JSON cannot hold is tested
  results.results["piano"] = report.skipped("it needs music")
  table = report.markdown_table(results.rows)
  assert "| codec | SI-SDR, dB, 4 levels | 0.85 | 0.8 to 0.9 | 12 | 0.8 | 0.909 | floor |" in table
  path = tmp_path / "results.json"
  report.write_json(path, results.as_json())
  content = json.loads(path.read_text())
  first, second = content["rows"]
  assert (first["suite"], first["metric"], first["of"]) == ("codec", "si_sdr_db", "4 levels")
  assert (first["figure"], first["unit"]) == ("SI-SDR, dB, 4 levels", "dB")
  assert first["estimate"]["n"] == 12 and first["verdict"] == "floor"
  assert second["estimate"]["value"] is None and "values" not in first
  assert content["details"]["codec"] == {"array": [0, 1], "si_sdr_db": 1.5}
  assert content["details"]["piano"] == {"skipped": "it needs music"}


def test_an_average_over_clips_can_be_restricted_to_some():
  row = row_of(SI_SDR, [1.0, math.nan, 5.0], "all", floor=2.0)
  assert (row.estimate.value, row.estimate.n) == (3, 2)
  some = row.over([1, 2], "; source")
  assert (some.of, some.estimate.value, some.floor) == ("all; source", 5, None)
  ratio = row_of(EMPTY, np.array([[1, 2], [0, 6]]))
  assert (ratio.estimate.value, ratio.over([0], "").estimate.value) == (1 / 8, 1 / 2)
  with pytest.raises(ValueError, match="not an average over clips"):
    Row(EMPTY, exact(1.0)).over([0], "")


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (0.12345, "0.123"),
    (999.4, "999"),
    (999.7, "1000"),
    (-999.7, "-1000"),
    (1234.5, "1234"),
    (math.nan, "none"),
    (math.inf, "inf"),
  ],
)
def test_numbers_have_three_digits_and_no_exponent_below_a_million(value, text):
  assert report.number(value) == text
