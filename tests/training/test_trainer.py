"""The training loop: resuming, skipped updates, rollbacks, signals, evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import soundfile
import toy_trainable as toy
from helpers_training import curve

from audiolm_jax.core import products
from audiolm_jax.core.errors import CheckpointError, ConfigError, DataError, UserError
from audiolm_jax.data import datasets
from audiolm_jax.trainables import registry
from audiolm_jax.training import trainer
from tests.conftest import forced_devices

REPO = Path(__file__).parents[2]


class Killed(Exception):
  """Simulates the end of a process at a random moment."""


def params_of(model_dir, step=None):
  return registry.load_inference_params(model_dir, step)[2]


def assert_same_run(one, other):
  assert curve(one) == curve(other)
  jax.tree.map(np.testing.assert_array_equal, params_of(one), params_of(other))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  folder = tmp_path_factory.mktemp("uninterrupted")
  toy.run(folder)
  return folder


@pytest.mark.parametrize("kill_at", [2, 7, 13, 23])
def test_a_killed_run_resumes_to_the_same_bits(kill_at, tmp_path, uninterrupted):
  def kill(position):
    if position == kill_at:
      raise Killed

  with pytest.raises(Killed):
    toy.run(tmp_path, train_dataset=lambda: toy.ToyData(on_batch=kill))
  result = toy.run(tmp_path)
  assert result.finished and result.step == 24
  assert_same_run(tmp_path, uninterrupted)


def test_several_short_calls_equal_one_long_one(tmp_path, uninterrupted):
  for total_steps in (4, 11, 24):
    toy.run(tmp_path, total_steps=total_steps, log_period=3)
  assert curve(tmp_path)[-1] == curve(uninterrupted)[-1]
  jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path), params_of(uninterrupted))


def subprocess_run(*arguments, **environment):
  return subprocess.run(
    [sys.executable, str(Path(__file__).with_name("toy_trainable.py")), *map(str, arguments)],
    env={**os.environ, "PYTHONPATH": str(REPO), **environment},
    capture_output=True,
    text=True,
    timeout=300,
  )


def log_of(model_dir):
  return (model_dir / "log.txt").read_text()


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
  """Returns the uninterrupted run with products in bfloat16."""
  folder = tmp_path_factory.mktemp("rounded")
  toy.run(folder, products="bfloat16")
  return folder


def test_products_in_bfloat16_change_the_run_and_are_recorded(rounded, uninterrupted):
  assert curve(rounded)[0]["loss"] != curve(uninterrupted)[0]["loss"]
  assert curve(rounded)[0]["loss"] == pytest.approx(curve(uninterrupted)[0]["loss"], rel=0.01)
  assert json.loads((rounded / "versions.json").read_text())["products"] == "bfloat16"
  assert "products in bfloat16 (as configured)" in log_of(rounded)
  assert "bfloat16 in training" in (rounded / "summary.txt").read_text()


def test_a_run_in_bfloat16_keeps_its_products_and_bits_on_a_machine_without_amx(
  rounded, tmp_path, monkeypatch
):
  toy.run(tmp_path, products="bfloat16", total_steps=7)
  monkeypatch.setattr(products, "cpu_has_amx", lambda: False)
  toy.run(tmp_path, products="auto")
  assert "products in bfloat16 (as before; float32 is faster on this machine" in log_of(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path), params_of(rounded))


@pytest.mark.parametrize(("has_amx", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_the_machine_chooses_the_products_of_a_new_run(has_amx, expected, tmp_path, monkeypatch):
  monkeypatch.setattr(products, "cpu_has_amx", lambda: has_amx)
  toy.run(tmp_path, total_steps=1)
  assert f"products in {expected} (the faster precision on this machine)" in log_of(tmp_path)
  monkeypatch.setattr(products, "cpu_has_amx", lambda: not has_amx)
  toy.run(tmp_path, total_steps=2)
  assert json.loads((tmp_path / "versions.json").read_text())["products"] == expected


def test_the_precision_of_a_run_can_be_changed_when_it_resumes(tmp_path):
  toy.run(tmp_path, products="bfloat16", total_steps=2)
  toy.run(tmp_path, products="float32", total_steps=4)
  assert "products in float32 (as configured; bfloat16 until this checkpoint)" in log_of(tmp_path)
  toy.run(tmp_path, total_steps=6)
  assert "products in float32 (as before" in log_of(tmp_path)


def test_a_run_of_an_old_version_resumes_in_float32_and_one_without_record_is_refused(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(products, "cpu_has_amx", lambda: True)
  toy.run(tmp_path, products="float32", total_steps=2)
  record = tmp_path / "versions.json"
  old = json.loads(record.read_text())
  del old["products"]
  record.write_text(json.dumps(old))
  toy.run(tmp_path, total_steps=4)
  assert "products in float32 (as before; bfloat16 is faster" in log_of(tmp_path)
  record.unlink()
  with pytest.raises(ConfigError, match="set PRODUCTS to float32 or bfloat16"):
    toy.run(tmp_path, total_steps=6)
  toy.run(tmp_path, products="float32", total_steps=6)


def test_products_of_another_name_are_refused(tmp_path):
  with pytest.raises(ConfigError, match="'float16' is not one of auto, float32, bfloat16"):
    toy.run(tmp_path, products="float16")


def test_metrics_of_repeated_steps_are_kept_once(tmp_path):
  def kill(position):
    if position == 14:
      raise Killed

  with pytest.raises(Killed):
    toy.run(tmp_path, train_dataset=lambda: toy.ToyData(on_batch=kill))
  toy.run(tmp_path)
  steps = [row["step"] for row in curve(tmp_path)]
  assert steps == sorted(set(steps)) == list(range(3, 25, 3))


def test_a_bad_batch_is_skipped_and_counted(tmp_path):
  result = toy.run(tmp_path, train_dataset=lambda: toy.ToyData(bad=[4]), total_steps=9)
  assert [row["skipped_steps"] for row in curve(tmp_path)] == [0, 1, 0]
  assert np.isfinite(result.metrics["loss"])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params_of(tmp_path)))
  assert "1 non-finite update(s) were skipped" in (tmp_path / "log.txt").read_text()


def test_consecutive_bad_batches_roll_back_to_the_last_checkpoint(tmp_path):
  bad = range(7, 13)
  result = toy.run(tmp_path, train_dataset=lambda: toy.ToyData(bad=bad), max_skipped_steps=4)
  assert result.finished
  assert "continuing from checkpoint_5 with the next data" in (tmp_path / "log.txt").read_text()
  # Steps 5 and 6 were lost with two good batches; those after the bad ones follow.
  progress = json.loads((tmp_path / "checkpoint_24" / "progress" / "metadata").read_text())
  assert progress["data"]["position"] > 24
  assert progress["rollbacks"] == [5]


def test_a_rolled_back_run_resumes_to_the_same_bits(tmp_path):
  data: dict[str, Any] = {"bad": range(7, 13)}
  once = tmp_path / "once"
  toy.run(once, train_dataset=lambda: toy.ToyData(**data), max_skipped_steps=4)

  def kill(position):
    if position == 26:
      raise Killed

  twice = tmp_path / "twice"
  with pytest.raises(Killed):
    toy.run(twice, train_dataset=lambda: toy.ToyData(**data, on_batch=kill), max_skipped_steps=4)
  toy.run(twice, train_dataset=lambda: toy.ToyData(**data), max_skipped_steps=4)
  assert_same_run(once, twice)


def test_a_run_that_diverges_repeatedly_ends_with_an_error(tmp_path):
  with pytest.raises(trainer.TrainingError, match="lower the learning rate"):
    toy.run(
      tmp_path,
      train_dataset=lambda: toy.ToyData(bad=range(6, 1000)),
      total_steps=500,
      max_skipped_steps=3,
    )


def test_evaluation_uses_the_same_weighted_batches_each_time(tmp_path):
  frozen = toy.ToyConfig(optimizer=toy.OptimizerConfig(learning_rate=0.0), ema_decay=0.9)
  result = toy.run(
    tmp_path,
    model=toy.ToyTrainable(frozen),
    total_steps=6,
    eval_dataset=lambda: toy.ToyData(end=3),
    eval_period=2,
    eval_steps=10,
  )
  losses = [row["loss"] for row in curve(tmp_path) if row["split"] == "eval"]
  assert len(losses) == 3 and len(set(losses)) == 1
  data, params, model = toy.ToyData(end=3), params_of(tmp_path), toy.ToyTrainable(frozen)
  expected = np.mean([float(model._loss(params, next(data), 0.0)) for _ in range(3)])
  np.testing.assert_allclose(result.eval_metrics["loss"], expected, rtol=1e-5)


def test_a_corpus_without_held_out_clips_is_refused_before_anything_is_compiled(tmp_path):
  soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
  manifest = tmp_path / "m.jsonl"
  manifest.write_text('{"path": "a.wav", "split": "train"}')
  held_out = datasets.InMemoryAudio(str(manifest), crop_seconds=0.5, split="valid", batch_size=2)
  with pytest.raises(DataError, match=r"no clip has the split 'valid'; .* EVAL_PERIOD=0 trains"):
    toy.run(tmp_path / "run", eval_dataset=held_out, eval_period=1)
  assert not (tmp_path / "run" / "log.txt").exists()


def test_the_files_of_a_run_folder(uninterrupted):
  names = {p.name for p in uninterrupted.iterdir()}
  expected = {"model.json", "model-info.txt", "versions.json", "metrics.jsonl", "log.txt"}
  expected |= {"summary.txt"}
  assert expected <= names
  assert {n for n in names if n.startswith("checkpoint_")} == {
    "checkpoint_15",
    "checkpoint_20",
    "checkpoint_24",
  }


def test_another_configuration_is_refused_with_the_fields_that_differ(tmp_path):
  toy.run(tmp_path, total_steps=2)
  other = toy.ToyConfig(mlp=64, optimizer=toy.OptimizerConfig(learning_rate=0.5))
  with pytest.raises(CheckpointError) as error:
    toy.run(tmp_path, model=toy.ToyTrainable(other), total_steps=4)
  assert "config.mlp was 32, is 64" in str(error.value)
  assert "config.optimizer.learning_rate was 0.01, is 0.5" in str(error.value)
  assert "\n" not in str(error.value)


def test_another_seed_is_refused(tmp_path):
  toy.run(tmp_path, total_steps=2)
  with pytest.raises(CheckpointError, match="random_seed was 0, is 1"):
    toy.run(tmp_path, total_steps=4, random_seed=1)


def test_data_that_end_too_early_are_reported(tmp_path):
  with pytest.raises(DataError, match="ended at step 7"):
    toy.run(tmp_path, train_dataset=lambda: toy.ToyData(end=7))


def test_a_batch_that_the_mesh_cannot_split_is_refused(tmp_path):
  done = subprocess_run(tmp_path, 2, TOY_MESH="16x1x1", **forced_devices(16))
  assert "a batch of 8 ('x') cannot be split over 16 devices" in done.stderr


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  file = tmp_path / "file"
  file.touch()
  with pytest.raises(UserError, match="cannot create MODEL_DIR"):
    toy.run(file / "run")


def test_warnings_of_the_trainable_reach_the_log(tmp_path):
  class WithWarnings(toy.ToyTrainable):
    def warnings(self, metrics):
      return [f"the loss is a number ({metrics['loss'] > 0})"]

  toy.run(tmp_path, model=WithWarnings(), total_steps=3)
  assert "step 3: the loss is a number (True)" in (tmp_path / "log.txt").read_text()


def test_a_finished_run_ends_immediately(tmp_path, uninterrupted):
  before = curve(uninterrupted)
  result = toy.run(uninterrupted)
  assert result.finished and result.step == 24
  assert curve(uninterrupted) == before


def test_importing_the_trainer_needs_neither_gin_nor_seqio_nor_tensorflow():
  code = (
    "import sys, audiolm_jax.training.trainer;"
    "print([m for m in ('gin', 'seqio', 'tensorflow', 'clu', 'torch') if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONPATH": str(REPO)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert out.stdout.strip() == "[]"


def test_summaries_are_of_the_same_clips_at_each_evaluation(tmp_path, monkeypatch):
  class WithSounds(toy.ToyTrainable):
    def summaries(self, state, batch):
      return {"clip": toy.Audio(batch["x"])}

  summaries = []
  monkeypatch.setattr(
    trainer.RunLog, "evaluation", lambda self, step, metrics, found: summaries.append(found["clip"])
  )
  toy.run(
    tmp_path,
    model=WithSounds(),
    total_steps=6,
    eval_dataset=lambda: toy.ToyData(end=3),
    eval_period=2,
    eval_steps=2,
  )
  assert len(summaries) == 3
  for clips in summaries[1:]:
    np.testing.assert_array_equal(clips.samples, summaries[0].samples)


def test_a_repeated_warning_is_printed_less_often_and_always_stored(tmp_path):
  class WithWarnings(toy.ToyTrainable):
    def warnings(self, metrics):
      return [f"the loss is {metrics['loss']:.3f}"]

  toy.run(tmp_path, model=WithWarnings(), total_steps=6, log_period=1)
  lines = (tmp_path / "log.txt").read_text().splitlines()
  printed = [line for line in lines if "the loss is" in line]
  assert [line.split("step ")[1][0] for line in printed] == ["1", "2", "4"]
  assert "(4 times so far)" in printed[-1]
  assert len((tmp_path / "warnings.jsonl").read_text().splitlines()) == 6


class SilentData(toy.ToyData):
  """Batches with the sound of a corpus of silence."""

  def __next__(self):
    batch = super().__next__()
    return batch | {"waveform": np.zeros((self.batch_size, 100), np.float32)}


def test_the_summary_of_a_run_on_silence_warns(tmp_path):
  toy.run(tmp_path, total_steps=6, train_dataset=SilentData)
  assert (
    "100% of the training data are silence or padding" in (tmp_path / "summary.txt").read_text()
  )
