"""The command line of the demo, as far as it goes without serving."""

import dataclasses
import shutil
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
  silent = save_bundle(miniature_bundle, tmp_path / "silent")
  for arguments, words in [
    (("--bundle", "opera"), "no bundle 'opera'"),
    (("--bundle", bare), "the bundle miniature has no stages to sample with"),
    (("--concurrency", 0), "concurrency"),
    (("--bundle", silent, "--voices", tmp_path), "no bundle has a text stage; omit it"),
  ]:
    done = run_cli("demo.__main__", *arguments)
    assert done.code == 2 and words in done.err, done.err


def test_every_flag_of_the_server_reaches_it(
  run_cli, speaking_bundle, prompt, tmp_path, monkeypatch
):
  pytest.importorskip("gradio")
  pytest.importorskip("matplotlib")
  from audiolm_jax.demo import __main__ as program
  from audiolm_jax.demo import server

  asked = {}

  def running(bundles, limits, **settings):
    asked.update(settings, bundles=list(bundles), voices=list(settings["voices"]))
    asked.update(max_duration=limits.max_duration, max_characters=limits.max_characters)
    raise UserError("it would serve now")

  monkeypatch.setattr(server, "running", running)
  monkeypatch.setattr(server, "warm_up", lambda bundles, limits: None)
  monkeypatch.setattr(program.signal, "signal", lambda number, handler: None)
  folder = save_bundle(speaking_bundle, tmp_path / "whole")
  (tmp_path / "voices").mkdir()
  shutil.copy(prompt, tmp_path / "voices" / "anna.wav")
  arguments = ("--port", 7999, "--max_queue", 3, "--concurrency", 2, "--max_duration", 9)
  arguments += ("--host=0.0.0.0", "--allowed_host=demo.example.org", "--max_characters=90")
  arguments += ("--voices", tmp_path / "voices")
  done = run_cli("demo.__main__", "--bundle", folder, *arguments)
  assert "it would serve now" in done.err
  assert asked == {
    "host": "0.0.0.0", "port": 7999, "concurrency": 2, "max_queue": 3, "share": False,
    "allowed_hosts": ["demo.example.org"], "bundles": ["speaking"], "max_duration": 9.0,
    "max_characters": 90, "voices": ["default", "anna"],
  }  # fmt: skip
  assert "warning: the page has no password; everybody who reaches it can use it." in done.err
  done = run_cli("demo.__main__", "--bundle", folder)
  assert "it would serve now" in done.err and "password" not in done.err
  done = run_cli("demo.__main__", "--bundle", folder, "--share")
  assert "the page has no password" in done.err
