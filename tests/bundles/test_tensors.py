"""Parameters as files."""

import numpy as np
import pytest

from audiolm_jax.bundles import tensors
from audiolm_jax.bundles.tensors import Storage
from audiolm_jax.core import shapes
from audiolm_jax.core.errors import BundleError

PARAMS = {
  "layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "bias": np.ones(3)},
  "count": np.array(3, np.float32),
}


def write(tmp_path, params, storage=Storage.FLOAT32):
  path = tmp_path / "a.safetensors"
  path.write_bytes(tensors.encode_tensors(params, storage))
  return path


def load(path, params):
  return tensors.load_tensors(path, shapes.of_arrays(params))


def test_parameters_come_back_as_they_were(tmp_path):
  loaded = load(write(tmp_path, PARAMS), PARAMS)
  assert list(loaded) == ["count", "layer"] and loaded["count"].dtype == np.float32
  np.testing.assert_array_equal(loaded["layer"]["kernel"], PARAMS["layer"]["kernel"])
  assert loaded["layer"]["bias"].dtype == np.float32


def test_float16_halves_the_file_and_loads_as_float32(tmp_path):
  big = {"kernel": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}
  wide = write(tmp_path, big).stat().st_size
  path = write(tmp_path, big, Storage.FLOAT16)
  assert path.stat().st_size < 0.55 * wide
  loaded = load(path, big)["kernel"]
  assert loaded.dtype == np.float32
  np.testing.assert_array_equal(loaded, tensors.as_stored(big, Storage.FLOAT16)["kernel"])
  assert tensors.survives({"kernel": loaded}, Storage.FLOAT16)
  assert not tensors.survives(big, Storage.FLOAT16)


def test_int8_quarters_the_file_and_is_near(tmp_path):
  rng = np.random.default_rng(0)
  kernel = (rng.standard_normal((65, 3, 37)) * np.geomspace(1e-3, 10, 37)).astype(np.float32)
  big = {"kernel": kernel, "bias": rng.standard_normal(37).astype(np.float32)}
  path = write(tmp_path, big, Storage.INT8)
  assert path.stat().st_size < 0.29 * write(tmp_path, big).stat().st_size
  loaded = load(write(tmp_path, big, Storage.INT8), big)
  assert loaded["kernel"].dtype == np.float32 and loaded["kernel"].shape == kernel.shape
  # Half a step of 1/127 of the largest weight among 64 neighbours.
  blocks = np.pad(kernel.ravel(), (0, -kernel.size % 64)).reshape(-1, 64)
  bound = np.repeat(np.abs(blocks).max(axis=1), 64)[: kernel.size].reshape(kernel.shape) / 127
  assert (np.abs(loaded["kernel"] - kernel) <= 0.51 * bound + 1e-7).all()
  np.testing.assert_allclose(loaded["bias"], big["bias"], rtol=1e-3)
  again = tensors.as_stored(loaded, Storage.INT8)
  np.testing.assert_allclose(again["kernel"], loaded["kernel"], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e-6])
def test_int8_holds_zero_and_very_small_weights(tmp_path, value):
  tiny = {"kernel": np.full((64, 64), value, np.float32)}
  loaded = load(write(tmp_path, tiny, Storage.INT8), tiny)["kernel"]
  np.testing.assert_allclose(loaded, value, rtol=1e-6)


@pytest.mark.parametrize("smallest", [1e-30, 1e-5, 5e-4, 8e-3])
def test_what_int8_gives_back_is_stored_again_to_the_bit(tmp_path, smallest):
  rng = np.random.default_rng(0)
  loudness = np.geomspace(smallest, 10.0, 512)[:, None]
  rows = rng.standard_normal((512, 64))
  rows *= loudness / np.abs(rows).max(axis=1, keepdims=True)
  kernel = {"kernel": rows.astype(np.float32)}
  once = load(write(tmp_path, kernel, Storage.INT8), kernel)
  assert tensors.hash_params(once) == tensors.hash_params(tensors.as_stored(kernel, Storage.INT8))
  assert tensors.survives(once, Storage.INT8)


def test_bfloat16_parameters_are_stored_as_float32(tmp_path):
  jnp = pytest.importorskip("jax.numpy")
  params = {"kernel": jnp.ones(3, jnp.bfloat16)}
  loaded = load(write(tmp_path, params), params)
  assert loaded["kernel"].dtype == np.float32


def test_weights_past_float16_are_named():
  with pytest.raises(BundleError, match=r"kernel reaches 1e\+05, past float16"):
    tensors.encode_tensors({"kernel": np.array([1e5], np.float32)}, Storage.FLOAT16)


def test_the_hash_sees_every_weight_and_no_storage_width(tmp_path):
  rounded = tensors.as_stored(PARAMS, Storage.FLOAT16)
  stored = load(write(tmp_path, rounded, Storage.FLOAT16), rounded)
  assert tensors.hash_params(stored) == tensors.hash_params(rounded)
  changed = {**PARAMS, "count": np.array(4, np.float32)}
  assert tensors.hash_params(changed) != tensors.hash_params(PARAMS)
  renamed = {"layers": PARAMS["layer"], "count": PARAMS["count"]}
  assert tensors.hash_params(renamed) != tensors.hash_params(PARAMS)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing", "folder"])
def test_damaged_files_are_refused_in_one_line(tmp_path, damage):
  path = write(tmp_path, PARAMS)
  content = path.read_bytes()
  path.unlink()
  match damage:
    case "truncated":
      path.write_bytes(content[:-4])
    case "garbage":
      path.write_bytes(b"not tensors" * 100)
    case "empty":
      path.touch()
    case "folder":
      path.mkdir()
  with pytest.raises(BundleError, match=r"a\.safetensors is (damaged|missing)") as caught:
    load(path, PARAMS)
  assert "\n" not in str(caught.value)
