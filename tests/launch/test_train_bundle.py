"""The whole recipe as a command: its steps, their order, and what it answers to mistakes."""

import os
import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "launch" / "train_bundle.sh"
STEPS = [
  "codec",
  "semantic",
  "kmeans",
  "tokenizers",
  "tokens",
  "semantic_stage",
  "coarse_stage",
  "fine_stage",
  "bundle",
]
PARALLEL = ["parallel_stage", "parallel_stage_long"]


def run(*arguments, cwd=None, **environment):
  return subprocess.run(
    ["bash", str(SCRIPT), *map(str, arguments)],
    cwd=cwd,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.mark.parametrize("preset", ["smoke", "tiny", "piano_tiny", "base"])
def test_the_steps_come_in_order_with_files_that_exist(preset, tmp_path):
  done = run(tmp_path, tmp_path / "bundle", "--preset", preset, "--dry_run")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert [line.split(":")[0].removeprefix("# ") for line in lines[::2]] == STEPS
  assert _configs_exist(lines) == 10
  assert not (tmp_path / "bundle.work").exists()


def test_small_trains_a_parallel_stage_in_place_of_two(tmp_path):
  done = run(tmp_path, tmp_path / "bundle", "--preset", "small", "--dry_run")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  steps = [*STEPS[:6], *PARALLEL, "bundle"]
  assert [line.split(":")[0].removeprefix("# ") for line in lines[::2]] == steps
  parallel, longer, bundle = lines[-5], lines[-3], lines[-1]
  assert "parallel_stage_small.gin" in parallel and "bundle.work/tokenizers" in parallel
  assert "parallel_stage_long_small.gin" in longer
  work = tmp_path / "bundle.work"
  assert f"INITIAL_RUN=\\'{work}/parallel_stage\\'" in longer
  assert f"--stage_dir=parallel={work}/parallel_stage_long " in bundle and "coarse" not in bundle
  assert _configs_exist(lines) == 10


def test_small_can_train_the_cascade_of_the_paper(tmp_path):
  options = ("--preset", "small", "--acoustic", "cascade", "--dry_run")
  done = run(tmp_path, tmp_path / "bundle", *options)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert [line.split(":")[0].removeprefix("# ") for line in lines[::2]] == STEPS
  assert "coarse_stage_small.gin" in lines[-5] and "fine_stage_small.gin" in lines[-3]
  assert _configs_exist(lines) == 10


def test_small_can_train_soundstream(tmp_path):
  options = ("--preset", "small", "--codec", "soundstream", "--dry_run")
  done = run(tmp_path, tmp_path / "bundle", *options)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert "codec_tiny.gin" in lines[1] and "--gin.LATENT_DIM=128" in lines[-3]
  assert "--gin.LATENT_DIM=128" in lines[-5]
  assert _configs_exist(lines) == 10


def test_a_text_stage_is_added_at_the_end(tmp_path):
  done = run(tmp_path, tmp_path / "bundle", "--preset", "small", "--text", "--dry_run")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  steps = [*STEPS[:6], *PARALLEL, "text_stage", "text_bundle"]
  assert [line.split(":")[0].removeprefix("# ") for line in lines[::2]] == steps
  text, bundle = lines[-3], lines[-1]
  assert "text_stage_small.gin" in text and "bundle.work/tokens" in text
  assert "NUM_CLUSTERS" not in done.stdout and "BUNDLE" not in text
  assert f"--stage_dir=text={tmp_path}/bundle.work/text_stage" in bundle
  assert _configs_exist(lines) == 12
  done = run(tmp_path, tmp_path / "bundle", "--text", "--acoustic_only", "--dry_run")
  assert done.returncode == 2 and "so not --acoustic_only" in done.stderr


def test_stages_with_a_source_are_added_at_the_end(tmp_path):
  manifest = tmp_path / "clips.jsonl"
  manifest.touch()
  for options, added, last in (
    (("--pairs",), ["speech"], "pairs_bundle"),
    (("--pairs", "--text"), ["text", "speech"], "text_pairs_bundle"),
  ):
    done = run(manifest, tmp_path / "bundle", "--preset", "small", *options, "--dry_run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    steps = [*STEPS[:6], *PARALLEL, *(f"{name}_stage" for name in added), last]
    assert [line.split(":")[0].removeprefix("# ") for line in lines[::2]] == steps
    assert "speech_stage_small.gin" in lines[-3]
    assert f"MODEL_DIR=\\'{tmp_path}/bundle.work/speech_stage" in lines[-3]
    for name in added:
      assert f"--stage_dir={name}={tmp_path}/bundle.work/{name}_stage" in lines[-1]
    assert _configs_exist(lines) == 10 + 2 * len(added)


def test_a_canonical_speaker_selects_units_of_four_rounds(tmp_path):
  manifest = tmp_path / "clips.jsonl"
  manifest.touch()
  options = ("--preset", "small", "--canonical_speaker", "ada", "--dry_run")
  done = run(manifest, tmp_path / "bundle", *options)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  names = [line.split(":")[0].removeprefix("# ") for line in lines[::2]]
  units = ["labels", "units", "labels_2", "units_2", "labels_3", "units_3"]
  units += ["kmeans_3", "tokenizers_3", "copies_4", "labels_4", "units_4"]
  assert names == ["codec", *units, *STEPS[2:6], *PARALLEL, "bundle"]
  commands = dict(zip(names, lines[1::2], strict=True))
  work = tmp_path / "bundle.work"
  assert "--encoder_dir" not in commands["labels"]
  assert f"--encoder_dir={work}/units " in commands["labels_2"]
  assert f"{work}/labels_2.npz" in commands["units_2"]
  assert "INITIAL_RUN" not in commands["units"]
  assert f"INITIAL_RUN=\\'{work}/units_2\\'" in commands["units_3"]
  assert f"--encoder_dir={work}/units_3 " in commands["kmeans_3"]
  assert f"--bundle={work}/tokenizers_3 --manifest={manifest} " in commands["copies_4"]
  assert f"--bundle={work}/tokenizers_3 --labels_of_source " in commands["labels_4"]
  assert f"AUDIO_DIR=\\'{work}/copies_4/manifest.jsonl" in commands["units_4"]
  assert "--canonical_speaker" not in commands["labels_4"]
  assert f"INITIAL_BUNDLE=\\'{work}/tokenizers_3\\'" in commands["units_4"]
  assert "NUM_UNITS=512" in commands["units_4"]
  assert f"--encoder_dir={work}/units_4 " in commands["kmeans"]
  assert "--layer" not in commands["kmeans"]
  assert "--canonical_speaker=ada" in commands["labels_2"]
  assert _configs_exist(lines) == 16


def test_the_semantic_stage_can_have_a_larger_corpus(tmp_path):
  more = tmp_path / "more.jsonl"
  options = ("--semantic_audio", str(more), "--dry_run")
  done = run(tmp_path, tmp_path / "bundle", *options)
  assert done.returncode == 2 and "more.jsonl does not exist" in done.stderr
  more.touch()
  done = run(tmp_path, tmp_path / "bundle", *options)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  names = [line.split(":")[0].removeprefix("# ") for line in lines[::2]]
  assert names == [*STEPS[:5], "semantic_tokens", *STEPS[5:]]
  commands = dict(zip(names, lines[1::2], strict=True))
  work = tmp_path / "bundle.work"
  assert f"--manifest={more} --streams=semantic" in commands["semantic_tokens"]
  assert f"{work}/semantic_tokens" in commands["semantic_stage"]
  assert f"{work}/semantic_tokens" not in commands["coarse_stage"]
  done = run(tmp_path, tmp_path / "bundle", *options, "--acoustic_only")
  assert done.returncode == 2 and "no semantic stage for --semantic_audio" in done.stderr


def _configs_exist(lines):
  """Returns the number of gin files in the commands, all of which exist."""
  configs = [word for line in lines for word in line.split() if word.startswith("--gin_file=")]
  assert all((REPO / word.removeprefix("--gin_file=")).is_file() for word in configs)
  return len(configs)


def test_the_ablation_trains_no_semantic_stage_and_keeps_the_rest(tmp_path):
  done = run(tmp_path, tmp_path / "bundle", "--acoustic_only", "--dry_run")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  ablation = [*STEPS[:5], "acoustic_only", "fine_stage", "acoustic_only_bundle"]
  assert [line.split(":")[0].removeprefix("# ") for line in lines[::2]] == ablation
  assert "gin_configs/acoustic_only_tiny.gin" in lines[11]
  assert "semantic=" not in lines[-1]
  assert "/acoustic_only --stage_dir=fine=" in lines[-1]


def test_overrides_reach_their_step_alone(tmp_path):
  done = run(tmp_path, "b", "--dry_run", "--override", "codec:--gin.TRAIN_STEPS=7")
  lines = done.stdout.splitlines()
  assert [line.split()[1] for line, command in zip(lines[::2], lines[1::2], strict=True)
          if "TRAIN_STEPS=7" in command] == ["codec:"]  # fmt: skip


def test_smoke_takes_few_steps_and_lets_the_caller_have_the_last_word(tmp_path):
  override = ("--override", "codec:--gin.TRAIN_STEPS=7")
  done = run(tmp_path, "b", "--preset", "smoke", "--dry_run", *override)
  steps = re.findall(r"TRAIN_STEPS=(\d+)", done.stdout)
  assert steps == ["100", "7", "50", "50", "50", "50"]


def test_the_interpreter_is_found_from_the_folder_of_the_caller(tmp_path):
  python = tmp_path / "python"
  python.write_text("#!/bin/sh\necho called; exit 3\n")
  python.chmod(0o755)
  done = run(tmp_path, tmp_path / "bundle", PYTHON="./python", cwd=tmp_path)
  assert "called" in done.stdout and "after fixing the error" in done.stderr


def test_a_missing_interpreter_is_an_error_before_anything_is_written(tmp_path):
  done = run(tmp_path, tmp_path / "bundle", PYTHON="no/python")
  assert done.returncode == 2 and "no/python cannot be run; give the python of" in done.stderr
  assert not (tmp_path / "bundle.work").exists()


def test_a_manifest_is_passed_on_as_one(tmp_path):
  manifest = tmp_path / "clips.jsonl"
  manifest.touch()
  done = run(manifest, "b", "--dry_run")
  assert done.stdout.count(f"--manifest={manifest}") == 2
  assert "--audio_dir" not in done.stdout


def test_finished_steps_are_skipped_and_a_failed_one_ends_with_its_exit_code(tmp_path):
  work = tmp_path / "bundle.work"
  (work / "done").mkdir(parents=True)
  for step in STEPS[:-1]:
    (work / "done" / step).write_text("in 1 s\n")
  python = tmp_path / "python"
  python.write_text("#!/bin/sh\necho called $*\nexit 3\n")
  python.chmod(0o755)
  done = run(tmp_path, tmp_path / "bundle", PYTHON=str(python))
  assert done.returncode == 3
  assert done.stdout.count("already done, in 1 s") == 8
  assert "called -m audiolm_jax.export_bundle" in done.stdout
  assert "bundle: stopped (exit 3)" in done.stderr
  assert not (work / "done" / "bundle").exists()
  assert "called" in (work / "log" / "bundle.log").read_text()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "give AUDIO_DIR and BUNDLE_DIR"),
    (["/nowhere/at/all", "b"], "AUDIO_DIR /nowhere/at/all does not exist"),
    (
      [".", "b", "--preset", "huge"],
      "--preset huge is not one of smoke, tiny, piano_tiny, small, base",
    ),
    ([".", "b", "--preset", "small", "--acoustic_only"], "needs a preset with a coarse stage"),
    ([".", "b", "--acoustic", "parallel"], "--acoustic parallel is not one of cascade, which"),
    ([".", "b", "--codec", "frame_rate"], "--codec frame_rate is not one of soundstream, which"),
    ([".", "b", "--canonical_speaker", "ada"], "is for --preset small without --tokenizers"),
    ([".", "b", "--preset", "small", "--canonical_speaker", "ada"], "needs a .jsonl manifest"),
    ([".", "b", "--pairs"], "--pairs needs a .jsonl manifest with source_path as AUDIO_DIR"),
    ([".", "b", "--pairs", "--acoustic_only"], "so not --acoustic_only"),
    ([".", "b", "--override", "choir:--x=1"], "STEP:--FLAG"),
    ([".", "b", "--presets"], "unknown option --presets"),
    ([".", "b", "--preset"], "--preset needs a value"),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
  done = run(*arguments)
  assert done.returncode == 2
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
  assert message in done.stderr


def test_a_work_folder_of_another_corpus_is_refused(tmp_path):
  work = tmp_path / "bundle.work"
  (work / "done").mkdir(parents=True)
  (work / "settings").write_text("/other/corpus tiny\n")
  done = run(tmp_path, tmp_path / "bundle")
  assert done.returncode == 2 and "was started with '/other/corpus tiny'" in done.stderr


@pytest.mark.parametrize("option", [("--codec", "soundstream"), ("--acoustic", "cascade")])
def test_a_work_folder_with_another_codec_or_stage_is_refused(tmp_path, option):
  work = tmp_path / "bundle.work"
  (work / "done").mkdir(parents=True)
  (work / "settings").write_text(f"{tmp_path} small\n")
  done = run(tmp_path, tmp_path / "bundle", "--preset", "small", *option)
  assert done.returncode == 2 and f"not '{tmp_path} small {option[1]}'" in done.stderr
