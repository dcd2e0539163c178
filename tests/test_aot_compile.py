"""The command that compiles for absent TPUs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
MINIATURE = [
  "--gin_file=gin_configs/semantic_stage_tiny.gin",
  "--gin.transformer.TransformerConfig.num_layers=1",
  "--gin.transformer.TransformerConfig.dim=16",
  "--gin.transformer.TransformerConfig.mlp_dim=32",
  "--gin.transformer.TransformerConfig.num_heads=2",
]


def aot_compile(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "audiolm_jax.aot_compile", *arguments],
    cwd=REPO,
    env={**os.environ, "PYTHONPATH": str(REPO)},
    capture_output=True,
    text=True,
    timeout=600,
  )


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_without_the_compiler_the_error_names_its_extra():
  done = aot_compile(*MINIATURE, "--topology=v5e:2x2")
  assert done.returncode == 2 and 'pip install ".[tpu]"' in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_an_unknown_flag_is_one_line():
  done = aot_compile("--topologi=v5e:2x2")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed (extra tpu)")
def test_a_step_is_compiled_for_each_slice_and_an_exceeded_limit_ends_with_code_1():
  done = aot_compile(
    *MINIATURE,
    "--topology=v5e:2x2,v5e:4x4",
    "--sequences_per_chip=2",
    "--memory_share=1e-9",
    "--json",
  )
  assert done.returncode == 1, done.stderr
  small, large = (json.loads(line) for line in done.stdout.splitlines())
  assert (small["mesh"], large["mesh"]) == ("4 x 1 x 1", "16 x 1 x 1")
  assert large["arguments"] <= small["arguments"]
  limits = [line for line in done.stderr.splitlines() if line.startswith("limit exceeded: ")]
  assert len(limits) == 2 and all("memory" in line for line in limits)
