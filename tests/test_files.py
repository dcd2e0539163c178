"""Files appear whole or not at all, whoever else writes beside."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from audiolm_jax import files


def test_many_may_ask_at_once_whether_a_place_can_be_written(tmp_path):
  with ThreadPoolExecutor(8) as pool:
    list(pool.map(files.check_writable, [tmp_path / "model.json"] * 400))
  assert not list(tmp_path.iterdir())


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"old")
  with pytest.raises(KeyError), files.atomic_write(path) as file:
    file.write(b"new")
    raise KeyError
  assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]
