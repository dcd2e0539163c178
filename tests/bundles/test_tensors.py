"""Parameters as files."""

import numpy as np
import pytest

from audiolm_jax.bundles import tensors
from audiolm_jax.errors import BundleError

PARAMS = {
  "layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "bias": np.ones(3)},
  "count": np.array(3, np.int32),
}


def write(tmp_path, params, *, float16=False):
  path = tmp_path / "a.safetensors"
  path.write_bytes(tensors.encode_tensors(params, float16=float16))
  return path


def test_parameters_come_back_as_they_were(tmp_path):
  loaded = tensors.load_tensors(write(tmp_path, PARAMS))
  assert list(loaded) == ["count", "layer"] and loaded["count"].dtype == np.int32
  np.testing.assert_array_equal(loaded["layer"]["kernel"], PARAMS["layer"]["kernel"])
  assert loaded["layer"]["bias"].dtype == np.float32


def test_float16_halves_the_file_and_loads_as_float32(tmp_path):
  big = {"kernel": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}
  wide = write(tmp_path, big).stat().st_size
  path = write(tmp_path, big, float16=True)
  assert path.stat().st_size < 0.55 * wide
  loaded = tensors.load_tensors(path)["kernel"]
  assert loaded.dtype == np.float32
  np.testing.assert_array_equal(loaded, tensors.round_to_float16(big, "a")["kernel"])
  assert tensors.survives_float16({"kernel": loaded}) and not tensors.survives_float16(big)


def test_bfloat16_parameters_are_stored_as_float32(tmp_path):
  jnp = pytest.importorskip("jax.numpy")
  loaded = tensors.load_tensors(write(tmp_path, {"kernel": jnp.ones(3, jnp.bfloat16)}))
  assert loaded["kernel"].dtype == np.float32


def test_weights_past_float16_are_named():
  with pytest.raises(BundleError, match=r"kernel reaches 1e\+05, past float16"):
    tensors.encode_tensors({"kernel": np.array([1e5], np.float32)}, float16=True)


def test_the_hash_sees_every_weight_and_no_storage_width(tmp_path):
  rounded = tensors.round_to_float16(PARAMS, "a")
  stored = tensors.load_tensors(write(tmp_path, rounded, float16=True))
  assert tensors.hash_params(stored) == tensors.hash_params(rounded)
  changed = {**PARAMS, "count": np.array(4, np.int32)}
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
    tensors.load_tensors(path)
  assert "\n" not in str(caught.value)
