"""What each launch script would run, and that flags reach the program as they were given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.fake_tools import REPO, calls, make_fakes, run_script

TOOLS = ("python", "gcloud", "git", "kubectl", "sbatch", "srun", "scontrol", "squeue")
HARD = [
  "--gin_file=gin_configs/codec_tiny.gin",
  "--gin.MODEL_DIR='/bucket/my run'",
  "--gin.NAMES=('a', \"it's\")",
  "--gin.TEXT='$(HOME) ${NAME} & \\\\ * #'",
  "--gin.LINES='a\nb\tc'",
  "",
]
TRAIN = ["-m", "audiolm_jax.train"]
TPU = ["--tpu", "pod", "--zone", "us-east5-a"]
GKE = [
  *("--name", "codec", "--image", "us-docker.pkg.dev/p/r/audiolm_jax:1", "--bucket", "sounds"),
  *("--accelerator", "tpu-v5-lite-podslice", "--topology", "4x4"),
]
DATAFLOW = [
  *("--project", "p", "--region", "us-east5", "--temp_location", "gs://b/tmp"),
  *("--image", "us-docker.pkg.dev/p/r/audiolm_jax:1"),
]
NEEDED = {
  "local.sh": [],
  "slurm.sh": [],
  "tpu_vm.sh": TPU,
  "gke.sh": GKE,
  "dataflow.sh": DATAFLOW,
}

EXPECTED = {
  ("local.sh",): "python -m audiolm_jax.train --gin_file=a.gin --gin.MODEL_DIR=\\'r\\'\n",
  ("local.sh", "--processes", "2", "--port=1234"): "".join(
    f"env JAX_LOCAL_DEVICE_IDS={i} python -m audiolm_jax.train --multiprocess "
    f"--coordinator_address=localhost:1234 --process_count=2 --process_index={i} "
    "--gin_file=a.gin --gin.MODEL_DIR=\\'r\\'\n"
    for i in range(2)
  ),
  ("slurm.sh", "--nodes", "2", "--gpus_per_node=4", "--time", "2:00:00"): (
    "sbatch --job-name=audiolm_jax --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 "
    "--cpus-per-task=8 --time=2:00:00 --signal=TERM@300 --requeue --open-mode=append "
    "launch/slurm.sh --cpus_per_gpu=8 -- --gin_file=a.gin --gin.MODEL_DIR=\\'r\\'\n"
    "srun --kill-on-bad-exit=1 --label --cpus-per-task=8 python -m audiolm_jax.train "
    "--multiprocess --gin_file=a.gin --gin.MODEL_DIR=\\'r\\'\n"
  ),
  ("tpu_vm.sh", *TPU, "--project=p", "--commit=v1", "--setup", "sudo mount /b"): (
    "git archive --format=tar.gz --output=audiolm_jax.tar.gz v1\n"
    "gcloud compute tpus tpu-vm scp audiolm_jax.tar.gz pod:audiolm_jax.tar.gz "
    "--zone=us-east5-a --worker=all --project=p\n"
    "gcloud compute tpus tpu-vm ssh pod --zone=us-east5-a --worker=all --project=p "
    "$'--command=set -e; rm -rf audiolm_jax; mkdir audiolm_jax\\n"
    "tar -xzf audiolm_jax.tar.gz -C audiolm_jax; cd audiolm_jax\\n"
    "python3 -m pip install --user --quiet uv\\n"
    "[ -d ../audiolm_jax_venv ] || python3 -m uv venv --python 3.12 ../audiolm_jax_venv\\n"
    "python3 -m uv pip install --quiet --python ../audiolm_jax_venv -r requirements.txt "
    '-e ".[tpu]"\'\n'
    "gcloud compute tpus tpu-vm ssh pod --zone=us-east5-a --worker=all --project=p "
    "--command=sudo\\ mount\\ /b\\ \\&\\&\\ cd\\ ~/audiolm_jax\\ \\&\\&\\ exec\\ "
    "../audiolm_jax_venv/bin/python\\ -m\\ audiolm_jax.train\\ --multiprocess\\ "
    "--gin_file=a.gin\\ --gin.MODEL_DIR=\\\\\\'r\\\\\\'\n"
  ),
  ("tpu_vm.sh", *TPU, "--stop"): (
    "gcloud compute tpus tpu-vm ssh pod --zone=us-east5-a --worker=all "
    "--command=pkill\\ -TERM\\ -f\\ \\'\\[a\\]udiolm_jax.train\\'\n"
  ),
  ("dataflow.sh", *DATAFLOW, "--max_workers=9"): (
    "python -m audiolm_jax.cache_tokens --gin_file=a.gin --gin.MODEL_DIR=\\'r\\' "
    "--runner=DataflowRunner --beam_options=--project=p\\ --region=us-east5\\ "
    "--temp_location=gs://b/tmp\\ --sdk_container_image=us-docker.pkg.dev/p/r/audiolm_jax:1\\ "
    "--sdk_location=container\\ --max_num_workers=9\\ --machine_type=n2-standard-4\n"
  ),
}


@pytest.mark.parametrize("call", EXPECTED, ids=" ".join)
def test_a_dry_run_prints_what_would_run_and_runs_nothing(call, tmp_path):
  fakes = make_fakes(tmp_path / "bin", *TOOLS)
  script, *options = call
  done = run_script(
    script, *options, "--dry_run", "--", "--gin_file=a.gin", "--gin.MODEL_DIR='r'", path=fakes
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == EXPECTED[call]
  assert not (fakes / "calls").exists()


def without_archive(noted):
  """The calls but for the file that lies in a folder of its own each time."""
  return [[word for word in call if not word.endswith(".tar.gz")] for call in noted]


@pytest.mark.parametrize("script", [name for name in NEEDED if name != "gke.sh"])
def test_a_printed_command_is_one_that_a_shell_runs_alike(script, tmp_path):
  fakes = make_fakes(tmp_path / "bin", *TOOLS)
  options = [*NEEDED[script], *(["--commit=v1"] if script == "tpu_vm.sh" else [])]
  done = run_script(script, *options, "--dry_run", "--", *HARD, path=fakes)
  environment = {**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}"}
  subprocess.run(["bash", "-c", done.stdout], env=environment, check=True, stdin=subprocess.DEVNULL)
  printed = calls(fakes)
  if script == "slurm.sh":  # what srun would do is printed, but done in the job
    assert printed.pop()[0] == "srun"
  (fakes / "calls").unlink()
  done = run_script(script, *options, "--", *HARD, path=fakes)
  assert done.returncode == 0, done.stderr
  assert without_archive(printed) == without_archive(calls(fakes))


def test_flags_reach_a_process_of_this_machine_unchanged(tmp_path):
  fakes = make_fakes(tmp_path / "bin", "python")
  assert run_script("local.sh", "--", *HARD, path=fakes).returncode == 0
  assert calls(fakes) == [["python", *TRAIN, *HARD]]


def test_flags_reach_both_processes_of_this_machine_unchanged(tmp_path):
  fakes = make_fakes(tmp_path / "bin", "python")
  done = run_script("local.sh", "--processes=2", "--port=1", "--", *HARD, path=fakes)
  assert done.returncode == 0, done.stderr
  assert len(calls(fakes)) == 2
  assert all(call[-len(HARD) :] == HARD for call in calls(fakes))


def test_processes_of_this_machine_that_hang_are_ended_with_the_one_that_failed(tmp_path):
  fake = tmp_path / "python"
  fake.write_text('#!/bin/sh\ncase "$*" in *index=1*) exit 3 ;; *) exec sleep 55 ;; esac\n')
  fake.chmod(0o755)
  done = run_script("local.sh", "--processes=3", "--port=1", "--", "x", PYTHON=str(fake))
  assert done.returncode == 3, done.stderr


def test_flags_reach_the_step_of_a_slurm_job_unchanged(tmp_path):
  fakes = make_fakes(tmp_path / "bin", *TOOLS)
  assert run_script("slurm.sh", "--", *HARD, path=fakes).returncode == 0
  (submitted,) = calls(fakes)
  at = submitted.index("launch/slurm.sh")
  # sbatch runs a copy of the script, elsewhere, with the arguments that follow it.
  copy = tmp_path / "slurm_script"
  shutil.copy(REPO / submitted[at], copy)
  (fakes / "calls").unlink()
  done = run_script(
    copy, *submitted[at + 1 :], path=fakes, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(REPO)
  )
  assert done.returncode == 0, done.stderr
  ((*step, last),) = calls(fakes)
  assert step[:4] == ["srun", "--kill-on-bad-exit=1", "--label", "--cpus-per-task=8"]
  assert [*step[4:], last] == ["python", *TRAIN, "--multiprocess", *HARD]


def test_flags_reach_the_vms_of_a_tpu_unchanged(tmp_path):
  fakes = make_fakes(tmp_path / "bin", *TOOLS)
  done = run_script("tpu_vm.sh", *TPU, "--setup", "export MOUNTED=1", "--", *HARD, path=fakes)
  assert done.returncode == 0, done.stderr
  assert [call[:2] for call in calls(fakes)] == [
    ["git", "stash"],
    ["git", "archive"],
    *[["gcloud", "compute"]] * 3,
  ]
  (command,) = [word for word in calls(fakes)[-1] if word.startswith("--command=")]
  # The shell of a VM, where home has the code and the environment.
  home = tmp_path / "home"
  (home / "audiolm_jax").mkdir(parents=True)
  remote = make_fakes(home / "remote", "python")
  (home / "audiolm_jax_venv").mkdir()
  (home / "audiolm_jax_venv" / "bin").symlink_to(remote)
  subprocess.run(
    ["bash", "-c", command.removeprefix("--command=")],
    env={**os.environ, "HOME": str(home)},
    check=True,
    stdin=subprocess.DEVNULL,
  )
  assert calls(remote) == [["python", *TRAIN, "--multiprocess", *HARD]]


def test_flags_reach_a_pod_unchanged(tmp_path):
  fakes = make_fakes(tmp_path / "bin", *TOOLS)
  done = run_script("gke.sh", *GKE, "--", *HARD, path=fakes)
  assert done.returncode == 0, done.stderr
  ((*command, manifest),) = calls(fakes)
  assert command == ["kubectl", "apply", "-f", "-"]
  jobs = yaml.safe_load(manifest)["spec"]["replicatedJobs"]
  container = jobs[0]["template"]["spec"]["template"]["spec"]["containers"][0]
  assert container["command"] == ["python", *TRAIN, "--multiprocess"]
  # Kubernetes reads $$ as $, and expands no $(NAME) after it.
  assert [word.replace("$$", "$") for word in container["args"]] == HARD
  assert not any("$" in word.replace("$$", "") for word in container["args"])


def test_flags_and_options_reach_dataflow_unchanged(tmp_path):
  fakes = make_fakes(tmp_path / "bin", "python")
  assert run_script("dataflow.sh", *DATAFLOW, "--", *HARD, path=fakes).returncode == 0
  ((*command, runner, options),) = calls(fakes)
  assert command == ["python", "-m", "audiolm_jax.cache_tokens", *HARD]
  assert runner == "--runner=DataflowRunner"
  assert options.removeprefix("--beam_options=").split()[:2] == ["--project=p", "--region=us-east5"]


MISTAKES = [
  *((name, [*needed], "give the flags of audiolm_jax.") for name, needed in NEEDED.items()),
  *((name, [*needed, "--nod", "2", "--", "x"], "--nod") for name, needed in NEEDED.items()),
  *((name, [*needed, "--gin_file=x"], "--gin_file") for name, needed in NEEDED.items()),
  *((name, [*needed, "x"], "unexpected argument x") for name, needed in NEEDED.items()),
  ("local.sh", ["--processes", "--", "x"], "--processes needs a value"),
  ("local.sh", ["--processes", "two", "--", "x"], "--processes two is not a number above 0"),
  ("slurm.sh", ["--nodes=0", "--", "x"], "--nodes 0 is not a number above 0"),
  ("slurm.sh", ["--nodes=1", "--", "x"], "sbatch is not installed here"),
  ("tpu_vm.sh", ["--tpu=t", "--", "x"], "--zone is needed"),
  ("gke.sh", [*GKE, "--topology=big", "--", "x"], "--topology big is not like 4x4"),
  ("gke.sh", [*GKE, "--topology=1x2", "--", "x"], "1x2 has 2 chips, not a multiple of 4"),
  ("gke.sh", [*GKE, "--name=a: b", "--", "x"], "--name a: b is not a name"),
  ("dataflow.sh", [*DATAFLOW, "--temp_location=/tmp", "--", "x"], "does not begin with gs://"),
  ("dataflow.sh", [*DATAFLOW, "--region=a b", "--", "x"], "cannot be passed on to Beam"),
]


@pytest.mark.parametrize(("script", "arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(script, arguments, message):
  done = run_script(script, *arguments)
  assert done.returncode == 2, done.stdout
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
  assert message in done.stderr


@pytest.mark.parametrize("script", NEEDED)
def test_help_is_the_head_of_the_script(script):
  done = run_script(script, "--help")
  assert done.returncode == 0 and f"\n  launch/{script} " in done.stdout
  assert "#" not in done.stdout and "set -euo" not in done.stdout


def test_shellcheck_finds_nothing():
  beside = Path(sys.executable).parent
  shellcheck = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
  assert shellcheck, "shellcheck is missing; pip install -r requirements.txt"
  scripts = sorted(map(str, (REPO / "launch").glob("*.sh")))
  done = subprocess.run(
    [shellcheck, "--external-sources", *scripts], cwd=REPO, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout
