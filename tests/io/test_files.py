"""Files are written atomically, also with concurrent writers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.io import files


def test_concurrent_checks_of_one_path_do_not_collide(tmp_path):
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


def test_an_output_that_would_replace_its_input_is_refused(tmp_path):
  recording, link = tmp_path / "a.wav", tmp_path / "b.wav"
  recording.write_bytes(b"sound")
  link.hardlink_to(recording)
  for target in (recording, link, tmp_path / "." / "a.wav"):
    with pytest.raises(UserError, match="would replace"):
      files.check_writable(target, [recording])
  files.check_writable(tmp_path / "c.wav", [recording])
  files.check_writable(recording, [tmp_path / "missing.wav"])
