"""The examples of launch/README.md: they run, with flags that `audiolm_jax.train` accepts."""

import os
import re
import shlex
import subprocess

from audiolm_jax import train
from tests.launch.fake_tools import REPO, calls, make_fakes

TEXT = (REPO / "launch" / "README.md").read_text()
BLOCKS = [
  block.replace("\\\n", " ").replace("--processes 2", "--processes 2 --port 7000")
  for block in re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]
COMMANDS = [
  shlex.split("launch/" + command)
  for block in BLOCKS
  for command in re.split(r"^launch/", block, flags=re.MULTILINE)[1:]
]


def test_the_examples_start_the_command_that_they_print(tmp_path):
  tools = ("python", "gcloud", "git", "docker", "kubectl", "sbatch")
  fakes = make_fakes(tmp_path / "bin", *tools)
  environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
  environment |= {"PATH": f"{fakes}:{environment['PATH']}", "PYTHON": "python"}
  for block in BLOCKS:
    subprocess.run(
      ["bash", "-euo", "pipefail", "-c", block],
      cwd=REPO,
      env=environment,
      stdin=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      check=True,
    )
  started = [call[0] for call in calls(fakes)]
  assert {name: started.count(name) for name in ("sbatch", "gcloud", "kubectl", "docker")} == {
    "sbatch": 1,
    "gcloud": 4,
    "kubectl": 1,
    "docker": 2,
  }
  modules = [call[2] for call in calls(fakes) if call[:2] == ["python", "-m"]]
  assert modules == ["audiolm_jax.train"] * 3 + ["audiolm_jax.cache_tokens"]


def test_the_flags_of_the_examples_resolve():
  resolved = []
  for script, *words in COMMANDS:
    if script == "launch/dataflow.sh" or "SAME" in words or "--" not in words:
      continue
    arguments = train.rewrite_gin_arguments(words[words.index("--") + 1 :])
    given = [argument.split("=", 1) for argument in arguments]
    files = [value for name, value in given if name == "--gin_file"]
    bindings = [value for name, value in given if name == "--gin_bindings"]
    assert len(files) + len(bindings) == len(arguments)
    settings, _ = train.resolve(files, bindings)
    resolved.append((script, settings["config"].model_dir))
  assert resolved == [
    ("launch/local.sh", "runs/codec"),
    ("launch/slurm.sh", "/shared/runs/coarse"),
    ("launch/tpu_vm.sh", "../bucket/runs/semantic"),
    ("launch/gke.sh", "/bucket/runs/fine"),
  ]
