import csv
import re

import numpy as np
import soundfile

from audiolm_jax.evaluation import page, report
from audiolm_jax.evaluation.report import Better, Row, exact
from audiolm_jax.evaluation.statistics import Estimate

ROWS = [
  Row("codec", "stoi <all>", Estimate(0.8, 0.7, 0.9, 12), floor=0.75, aim=0.9),
  Row("codec", "distance", Estimate(6.0, 5.0, 7.0, 12), Better.LOWER, floor=4.0),
  Row("cost", "peak, GB", exact(0.7), note="one run & one machine"),
]


def test_the_page_needs_no_other_file_and_shows_every_figure(tmp_path):
  sound, picture = tmp_path / "a.flac", tmp_path / "b.png"
  soundfile.write(sound, np.zeros(100), 16_000)
  picture.write_bytes(b"picture")
  page.write_page(
    tmp_path / "index.html",
    "a bundle",
    ROWS,
    {"jax": "1.0", "unset": None},
    pictures={"spectra": picture},
    sounds={"first": sound},
  )
  text = (tmp_path / "index.html").read_text()
  assert "stoi &lt;all&gt;" in text and "one run &amp; one machine" in text
  assert "0.7 to 0.9" in text and "reaches the floor" in text and "falls short" in text
  assert re.findall(r'(?:src|href)="(?!data:)', text) == []
  assert 'src="data:image/png;base64,' in text and "data:audio/" in text
  assert "jax" in text and "unset" not in text
  assert text.count("<h2>") == 3  # two suites, and how it was made


def test_only_shares_are_drawn_as_bars():
  assert "<svg" in page._bar(ROWS[0])
  assert page._bar(ROWS[1]) == page._bar(ROWS[2]) == ""


def test_the_spreadsheet_keeps_all_digits(tmp_path):
  rows = [Row("codec", "third", exact(1 / 3, 7)), *ROWS]
  report.write_csv(tmp_path / "results.csv", rows)
  with open(tmp_path / "results.csv", newline="") as file:
    found = list(csv.DictReader(file))
  assert len(found) == 4 and float(found[0]["value"]) == 1 / 3 and found[0]["n"] == "7"
  assert found[2]["better"] == "lower" and found[2]["aim"] == ""
