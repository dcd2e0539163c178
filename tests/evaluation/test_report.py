import json
import math

import numpy as np
import pytest

from audiolm_jax.evaluation import report
from audiolm_jax.evaluation.report import Better, Row, exact
from audiolm_jax.evaluation.statistics import Estimate


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
def test_verdict_says_which_mark_is_reached(value, better, floor, aim, verdict):
  assert Row("s", "f", exact(value), better, floor, aim).verdict == verdict


def test_table_and_json_hold_every_row(tmp_path):
  rows = [
    Row("codec", "stoi", Estimate(0.85, 0.8, 0.9, 12), floor=0.8, aim=0.909),
    Row("codec", "empty", exact(math.nan, 0)),
  ]
  table = report.markdown_table(rows)
  assert "| codec | stoi | 0.85 | 0.8 to 0.9 | 12 | 0.8 | 0.909 | floor |" in table
  path = tmp_path / "results.json"
  report.write_json(path, {"rows": rows, "array": np.arange(2), "n": np.float32(1.5)})
  content = json.loads(path.read_text())
  assert content["rows"][0]["estimate"]["n"] == 12
  assert content["rows"][0]["verdict"] == "floor"
  assert content["rows"][1]["estimate"]["value"] is None
  assert (content["array"], content["n"]) == ([0, 1], 1.5)
