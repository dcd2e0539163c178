"""Helpers shared by the tests of training/."""

import json
from pathlib import Path

from audiolm_jax.training.throughput import TIMINGS


def curve(model_dir):
  """Returns the rows of metrics.jsonl without metrics that depend on the clock."""
  rows = [json.loads(line) for line in (Path(model_dir) / "metrics.jsonl").read_text().splitlines()]
  return [{name: row[name] for name in row if name not in TIMINGS} for row in rows]
