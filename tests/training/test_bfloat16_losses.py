"""Training on products in bfloat16 ends at the losses of training in float32."""

import json

import command_runs as runs
import numpy as np
import pytest
import soundfile

from tests.conftest import melody, noise

STEPS = 1000
SEEDS = (0, 1, 2)
SETTINGS = (
  # The last row is then the mean over the last hundred steps.
  "LOG_PERIOD=100",
  "EVAL_PERIOD=0",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Returns the data of the other runs, and clips, a third of which appear with both labels."""
  folder = runs.make_corpus(tmp_path_factory.mktemp("corpus"))
  rows = []
  for i in range(12):
    make = (melody, noise)[i % 2]
    soundfile.write(folder / f"{i}.wav", make(2.0, seed=i % 10), 16_000)
    label = ("real", "synthetic")[i % 2 if i < 10 else 1 - i % 2]
    rows.append({"path": f"{i}.wav", "split": "train", "label": label})
  (folder / "labelled.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codec", "semantic", "coarse_stage", "detector"])
def test_a_run_in_bfloat16_ends_within_the_range_of_seeds_in_float32(kind, corpus, tmp_path):
  def last_loss(seed, products):
    run = tmp_path / f"{products}_{seed}"
    settings = (*SETTINGS, f"RANDOM_SEED={seed}", f"PRODUCTS='{products}'")
    if kind == "detector":
      settings += (f"AUDIO_DIR='{corpus / 'labelled.jsonl'}'",)
    command = runs.command(kind, corpus, run, steps=STEPS, period=STEPS, bindings=settings)
    runs.run(command, tmp_path / "log")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return rows[-1]["loss"]

  losses = [last_loss(seed, "float32") for seed in SEEDS]
  # The seed with the median loss, so that the losses may differ in both directions.
  middle = int(np.argsort(losses)[1])
  found = last_loss(SEEDS[middle], "bfloat16")
  print(f"{kind}: float32 {losses}, bfloat16 with seed {SEEDS[middle]} {found}")
  assert found != losses[middle]
  assert min(losses) <= found <= max(losses)
