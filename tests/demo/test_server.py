"""What a server sweeps away behind itself."""

import os
import socket
import time

import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.demo import page, server
from audiolm_jax.demo.requests import RequestLimits
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


def test_a_port_that_is_in_use_is_named(monkeypatch):
  gradio = pytest.importorskip("gradio")
  with gradio.Blocks() as empty:
    pass
  monkeypatch.setattr(page, "build", lambda *_: empty)
  with socket.create_server(("127.0.0.1", 0)) as other:
    port = other.getsockname()[1]
    wanted = rf"on port {port} of 127\.0\.0\.1 .*; choose another --port"
    with (
      pytest.raises(UserError, match=wanted) as caught,
      server.running({}, RequestLimits(), port=port),
    ):
      pass
  assert "\n" not in str(caught.value)
