"""The command line of the demo, as far as it goes without serving."""

import dataclasses
import subprocess
import sys

import pytest

from audiolm_jax.bundles import save_bundle
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo import library


def test_without_gradio_the_error_names_the_fix(monkeypatch, run_cli):
  monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
  done = run_cli("demo.__main__")
  assert done.code == 2 and "pip install -r requirements/extras/demo.txt" in done.err


def test_a_part_of_gradio_that_is_missing_is_named():
  with pytest.raises(UserError, match=r"No module named 'no_such_part'.*pip install"):
    library.load("no_such_part")


def test_no_module_of_the_demo_imports_gradio_before_it_serves():
  program = (
    "import sys, audiolm_jax.demo.__main__, audiolm_jax.demo.server\n"
    "print([name for name in ('gradio', 'starlette', 'matplotlib') if name in sys.modules])"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_bundles_that_cannot_be_served_are_named(run_cli, miniature_bundle, tmp_path):
  pytest.importorskip("gradio")
  pytest.importorskip("matplotlib")
  bare = save_bundle(dataclasses.replace(miniature_bundle, stages={}), tmp_path / "bare")
  for arguments, words in [
    (("--bundle", "opera"), "no bundle 'opera'"),
    (("--bundle", bare), "the bundle miniature has no stages to sample with"),
    (("--concurrency", 0), "concurrency"),
  ]:
    done = run_cli("demo.__main__", *arguments)
    assert done.code == 2 and words in done.err, done.err


def test_every_flag_of_the_server_reaches_it(run_cli, demo_bundle, tmp_path, monkeypatch):
  pytest.importorskip("gradio")
  pytest.importorskip("matplotlib")
  from audiolm_jax.demo import __main__ as program
  from audiolm_jax.demo import server

  asked = {}

  def running(bundles, limits, **settings):
    asked.update(settings, bundles=list(bundles), max_duration=limits.max_duration)
    raise UserError("it would serve now")

  monkeypatch.setattr(server, "running", running)
  monkeypatch.setattr(server, "warm_up", lambda bundles, limits: None)
  monkeypatch.setattr(program.signal, "signal", lambda number, handler: None)
  folder = save_bundle(demo_bundle, tmp_path / "whole")
  arguments = ("--port", 7999, "--max_queue", 3, "--concurrency", 2, "--max_duration", 9)
  arguments += ("--host=0.0.0.0", "--allowed_host=demo.example.org")
  done = run_cli("demo.__main__", "--bundle", folder, *arguments)
  assert "it would serve now" in done.err
  assert asked == {
    "host": "0.0.0.0", "port": 7999, "concurrency": 2, "max_queue": 3, "share": False,
    "allowed_hosts": ["demo.example.org"], "bundles": ["miniature"], "max_duration": 9.0,
  }  # fmt: skip
  assert "warning: the page has no password; everybody who reaches it can use it." in done.err
  done = run_cli("demo.__main__", "--bundle", folder)
  assert "it would serve now" in done.err and "password" not in done.err
  done = run_cli("demo.__main__", "--bundle", folder, "--share")
  assert "the page has no password" in done.err
