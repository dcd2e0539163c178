"""Files appear whole or not at all, whoever else writes beside."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.io import files


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


def test_a_file_that_is_read_is_not_replaced_by_what_is_written(tmp_path):
  recording, link = tmp_path / "a.wav", tmp_path / "b.wav"
  recording.write_bytes(b"sound")
  link.hardlink_to(recording)
  for target in (recording, link, tmp_path / "." / "a.wav"):
    with pytest.raises(UserError, match="would replace"):
      files.check_writable(target, [recording])
  files.check_writable(tmp_path / "c.wav", [recording])
  files.check_writable(recording, [tmp_path / "missing.wav"])
