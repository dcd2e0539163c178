import csv
import re

import numpy as np
import soundfile

from audiolm_jax.evaluation import page, report
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.report import Report, Row, SuiteResult
from audiolm_jax.evaluation.statistics import Estimate, exact

STOI = Metric("stoi", "STOI <all>")
DISTANCE = Metric("distance", "distance", Better.LOWER)
PEAK = Metric("peak", "peak", unit="GB")
ROWS = [
  Row(STOI, Estimate(0.8, 0.7, 0.9, 12), floor=0.75, aim=0.9),
  Row(DISTANCE, Estimate(6.0, 5.0, 7.0, 12), floor=4.0),
  Row(PEAK, exact(0.7), note="one run & one machine"),
]


def test_the_page_needs_no_other_file_and_shows_every_figure(tmp_path):
  soundfile.write(tmp_path / "a.flac", np.zeros(100), 16_000)
  (tmp_path / "b.png").write_bytes(b"picture")
  codec = SuiteResult(ROWS[:2], {}, {"spectra": "b.png"}, {"first": "a.flac"})
  results = Report("a bundle", "hash", {"unset": None}, {"jax": "1.0"})
  results.results |= {"codec": codec, "cost": SuiteResult(ROWS[2:], {})}
  page.write_page(tmp_path / "index.html", results)
  text = (tmp_path / "index.html").read_text()
  assert "STOI &lt;all&gt;" in text and "one run &amp; one machine" in text
  assert "0.7 to 0.9" in text and "reaches the floor" in text and "falls short" in text
  assert re.findall(r'(?:src|href)="(?!data:)', text) == []
  assert 'src="data:image/png;base64,' in text and "data:audio/" in text
  assert "jax" in text and "unset" not in text
  assert text.count("<h2>") == 3  # two suites, and how it was made


def test_targets_of_zero_are_shown():
  row = Row(DISTANCE, exact(0.5), floor=1.0, aim=0.0)
  assert page._marks(row) == "floor 1, aim 0, reaches the floor"


def test_only_shares_are_drawn_as_bars():
  assert "<svg" in page._bar(ROWS[0])
  assert page._bar(ROWS[1]) == page._bar(ROWS[2]) == ""


def test_the_spreadsheet_keeps_all_digits(tmp_path):
  rows = [Row(PEAK, exact(1 / 3, 7), "run"), *ROWS]
  report.write_csv(tmp_path / "results.csv", {"codec": rows})
  with open(tmp_path / "results.csv", newline="") as file:
    found = list(csv.DictReader(file))
  assert len(found) == 4 and float(found[0]["value"]) == 1 / 3 and found[0]["n"] == "7"
  assert (found[0]["metric"], found[0]["figure"]) == ("peak", "peak, GB, run")
  assert found[2]["better"] == "lower" and found[2]["aim"] == ""
