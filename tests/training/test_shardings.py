"""The shardings of all parameters, as golden text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import forced_devices

REPO = Path(__file__).parents[2]
GOLDEN = REPO / "tests" / "golden" / "shardings"
BASE = [
  "codec_base",
  "semantic_encoder_xl",
  "semantic_stage_base",
  "coarse_stage_base",
  "fine_stage_base",
  "parallel_stage_base",
  "detector_base",
]

PROGRAM = """
import dataclasses
import sys
import jax
from audiolm_jax import train
from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig, describe, unbox

partitioner = Partitioner(PartitioningConfig(data=2, fsdp=2, model=2))
for name in sys.argv[1:]:
  settings, _ = train.resolve(
    [f"gin_configs/{name}.gin"],
    ["MODEL_DIR = 'm'"]
    + ["AUDIO_DIR = 'a'" if name == "detector_base" else "MIXTURE_OR_TASK_NAME = 't'"],
  )
  batch = dataclasses.replace(settings["train_dataset"], batch_size=8).batch_shapes()
  with partitioner.context():
    state = jax.eval_shape(settings["model"].init, jax.random.key(0), batch)
  shardings = partitioner.state_shardings(state)
  plain = unbox(state)
  print("##", name)
  for part in ("params", "generator", "discriminators", "quantizer"):
    if hasattr(plain, part):
      print(describe({part: getattr(plain, part)}, {part: getattr(shardings, part)}), end="")
"""


@pytest.fixture(scope="module")
def found():
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, *BASE],
    env={
      **os.environ,
      "PYTHONPATH": str(REPO),
      **forced_devices(8),
    },
    cwd=REPO,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  parts = done.stdout.split("## ")[1:]
  return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


@pytest.mark.parametrize("name", BASE)
def test_parameter_shardings_are_the_golden_ones(name, found):
  path = GOLDEN / f"{name}.txt"
  if os.environ.get("UPDATE_GOLDEN"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found[name])
  assert found[name] == path.read_text(), "changed; run with UPDATE_GOLDEN=1 if it is meant"


@pytest.mark.parametrize("name", BASE)
def test_no_large_parameter_is_whole_on_every_device(name, found):
  for line in found[name].splitlines():
    words = line.replace(", ", ",").split()
    if len(words) >= 2 and "[" in words[1]:
      sizes = words[1].split("[")[1].rstrip("]")
      count = 1
      for size in filter(None, sizes.split(",")):
        count *= int(size)
      assert count < 8_000_000 or len(words) > 2, line
