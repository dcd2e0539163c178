"""The command line of the demo, as far as it goes without serving."""

import builtins
import importlib

import pytest

from audiolm_jax.demo import library
from audiolm_jax.errors import UserError


def test_without_gradio_the_mend_is_said(monkeypatch, run_cli):
  monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
  done = run_cli("demo.__main__")
  assert done.code == 2 and "pip install -r requirements/extras/demo.txt" in done.err


def test_a_part_of_gradio_that_is_missing_is_named():
  with pytest.raises(UserError, match=r"No module named 'no_such_part'.*pip install"):
    library.load("no_such_part")


def test_the_package_without_its_page_needs_no_gradio(monkeypatch):
  original = builtins.__import__

  def guarded(name, *rest):
    assert name.partition(".")[0] not in ("gradio", "starlette"), name
    return original(name, *rest)

  monkeypatch.setattr(builtins, "__import__", guarded)
  for name in ("cards", "jobs", "making", "requests", "serving", "routes", "page", "server"):
    importlib.reload(importlib.import_module(f"audiolm_jax.demo.{name}"))


def test_bundles_that_cannot_be_served_are_named(run_cli, miniature_bundle, tmp_path):
  pytest.importorskip("gradio")
  pytest.importorskip("matplotlib")
  import dataclasses

  from audiolm_jax.bundles import save_bundle

  bare = save_bundle(dataclasses.replace(miniature_bundle, stages={}), tmp_path / "bare")
  for arguments, words in [
    (("--bundle", "opera"), "no bundle 'opera'"),
    (("--bundle", bare), "the bundle miniature has no stages to sample with"),
    (("--concurrency", 0), "concurrency"),
  ]:
    done = run_cli("demo.__main__", *arguments)
    assert done.code == 2 and words in done.err, done.err
