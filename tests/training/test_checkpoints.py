"""Damaged checkpoints, checkpoints of other models, and parameters for inference."""

import json
import shutil

import jax
import numpy as np
import pytest
import toy_trainable as toy

from audiolm_jax.core.errors import CheckpointError
from audiolm_jax.trainables import registry
from audiolm_jax.training import checkpoints


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("finished")
  toy.run(folder, total_steps=10)
  return folder


@pytest.fixture
def run(finished, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  return folder


def truncate_arrays(folder):
  for path in (folder / "state").rglob("*"):
    if path.is_file() and path.stat().st_size > 100:
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_arrays(folder):
  shutil.rmtree(folder / "state")


def lose_progress(folder):
  shutil.rmtree(folder / "progress")


def cut_progress(folder):
  path = next(p for p in (folder / "progress").rglob("*") if p.read_text().startswith("{"))
  path.write_text(path.read_text()[:10])


def flip_a_bit_of_the_arrays(folder):
  path = max((p for p in (folder / "state").rglob("*") if p.is_file()), key=_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _size(path):
  return path.stat().st_size


@pytest.mark.parametrize(
  "damage", [truncate_arrays, lose_arrays, lose_progress, cut_progress, flip_a_bit_of_the_arrays]
)
def test_a_damaged_checkpoint_is_skipped_and_reported(damage, run, finished):
  damage(run / "checkpoint_10")
  result = toy.run(run, total_steps=12)
  assert result.finished
  log = (run / "log.txt").read_text()
  assert "checkpoint_10 cannot be read" in log and "using checkpoint_5" in log
  assert [p.name for p in run.glob("damaged_checkpoint_10_*")]
  straight = finished.parent / f"straight_{damage.__name__}"
  toy.run(straight, total_steps=12)
  one, other = (registry.load_inference_params(f)[2] for f in (run, straight))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_one_flipped_bit_anywhere_in_a_checkpoint_is_found(finished, tmp_path):
  checkpoint = finished / "checkpoint_10"
  items = (checkpoint / item for item in ("state", "progress"))
  paths = [path for item in items for path in item.rglob("*") if path.is_file()]
  names = [path.relative_to(checkpoint) for path in paths]
  assert len(names) > 5
  rng = np.random.default_rng(0)
  for number, name in enumerate(names):
    copy = tmp_path / str(number)
    shutil.copytree(checkpoint, copy)
    content = bytearray((copy / name).read_bytes())
    if content:
      content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
      (copy / name).write_bytes(content)
      with pytest.raises(CheckpointError, match="is not the file that was written"):
        checkpoints._check_hashes(copy)
  checkpoints._check_hashes(checkpoint)


def test_a_checkpoint_without_hashes_is_restored(run):
  for path in run.rglob(checkpoints.HASHES_FILE):
    path.unlink()
  toy.run(run, total_steps=12)
  assert "resuming from checkpoint_10" in (run / "log.txt").read_text()


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(run):
  for folder in run.glob("checkpoint_*"):
    truncate_arrays(folder)
  with pytest.raises(CheckpointError, match="cannot be read") as caught:
    toy.run(run, total_steps=12)
  # A line without the stacks and types of the libraries below.
  message = str(caught.value).replace(str(run), "")
  assert "\n" not in message and len(message) < 350 and "pybind" not in message


def test_an_interrupted_save_is_ignored(run):
  shutil.copytree(run / "checkpoint_10", run / "checkpoint_11.orbax-checkpoint-tmp-1")
  toy.run(run, total_steps=12)
  assert "resuming from checkpoint_10" in (run / "log.txt").read_text()


def test_inference_gets_the_averaged_parameters_of_any_step(finished):
  component, config, newest = registry.load_inference_params(finished)
  assert component == "toy" and config == toy.ToyConfig()
  older = registry.load_inference_params(finished, step=5)[2]
  assert set(newest) == {"wi", "wo"}
  assert isinstance(newest["wi"]["kernel"], np.ndarray)
  assert not np.array_equal(newest["wi"]["kernel"], older["wi"]["kernel"])


def test_reading_leaves_a_save_in_progress_alone(run):
  shutil.copytree(run / "checkpoint_10", run / "checkpoint_11.orbax-checkpoint-tmp-1")
  registry.load_inference_params(run)
  assert (run / "checkpoint_11.orbax-checkpoint-tmp-1" / "state").is_dir()


def test_an_absent_step_is_refused_with_the_saved_steps(finished):
  with pytest.raises(CheckpointError, match="no checkpoint_7; saved steps: 5, 10"):
    registry.load_inference_params(finished, step=7)


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(CheckpointError, match="not a run folder"):
    registry.load_inference_params(tmp_path)


def test_a_run_without_checkpoints_is_refused(run):
  for folder in run.glob("checkpoint_*"):
    shutil.rmtree(folder)
  with pytest.raises(CheckpointError, match="no checkpoint yet"):
    registry.load_inference_params(run)


def test_an_unknown_component_is_refused(run):
  path = run / "model.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"component": "choir"}))
  with pytest.raises(CheckpointError, match="'choir'"):
    registry.load_inference_params(run)


@pytest.mark.parametrize("field", ["config", "batch_shapes"])
def test_a_run_without_a_field_is_refused(run, field):
  path = run / "model.json"
  description = json.loads(path.read_text()) | {"component": "codec"}
  del description[field]
  path.write_text(json.dumps(description))
  with pytest.raises(CheckpointError, match=rf"model\.json lacks '{field}'; restore the file"):
    registry.load_inference_params(run)


def test_saved_arrays_do_not_change_when_the_caller_overwrites_them(tmp_path):
  saved = checkpoints.Checkpoints(tmp_path)
  state = {"w": jax.numpy.arange(100_000.0)}
  double = jax.jit(lambda s: jax.tree.map(lambda x: x * 2, s), donate_argnums=0)
  saved.save(1, state, {})
  for _ in range(20):
    state = double(state)
  saved.wait()
  abstract = {"w": jax.ShapeDtypeStruct((100_000,), "float32", sharding=state["w"].sharding)}
  restored = saved.restore(abstract)
  np.testing.assert_array_equal(restored.state["w"], np.arange(100_000.0))  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  saved.close()


def test_a_full_disk_keeps_the_last_checkpoint_and_is_reported(run, monkeypatch):
  def full(*_, **__):
    raise OSError(28, "No space left on device")

  saved = checkpoints.Checkpoints(run)
  monkeypatch.setattr(saved._manager, "save", full)
  with pytest.raises(CheckpointError, match=r"No space left.*newest complete one is checkpoint_10"):
    saved.save(11, {"w": jax.numpy.zeros(1)}, {})


def test_a_field_that_the_record_lacks_takes_its_default(run):
  path = run / "model.json"
  description = json.loads(path.read_text())
  del description["config"]["noise"], description["config"]["optimizer"]["b2"]
  path.write_text(json.dumps(description))
  with pytest.raises(
    CheckpointError, match=r"configuration: config.noise was 0.1, is 0.2; restore"
  ):
    toy.run(run, model=toy.ToyTrainable(toy.ToyConfig(noise=0.2)), total_steps=12)
  assert toy.run(run, total_steps=12).finished
