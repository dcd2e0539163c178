"""What a server sweeps away behind itself."""

import os
import time

from audiolm_jax.demo.server import remove_old


def test_a_copy_of_an_old_file_is_not_old(tmp_path):
  (tmp_path / "copy").write_bytes(b"sound")
  os.utime(tmp_path / "copy", (0, 0))
  remove_old(tmp_path, keep=(), keep_seconds=60.0, keep_bytes=100)
  assert (tmp_path / "copy").exists()


def test_what_came_long_ago_goes_and_examples_stay(tmp_path):
  for name in ("example", "upload"):
    (tmp_path / name).write_bytes(b"sound")
  time.sleep(0.05)
  remove_old(tmp_path, keep={tmp_path / "example"}, keep_seconds=0.01, keep_bytes=100)
  assert [path.name for path in tmp_path.iterdir()] == ["example"]


def test_the_oldest_goes_where_all_take_up_too_much(tmp_path):
  (tmp_path / "deep").mkdir()
  for name in ("first", "second", "deep/third"):
    (tmp_path / name).write_bytes(b"x" * 40)
    time.sleep(0.02)
  remove_old(tmp_path, keep=(), keep_seconds=60.0, keep_bytes=100)
  assert not (tmp_path / "first").exists()
  assert (tmp_path / "second").exists() and (tmp_path / "deep" / "third").exists()
