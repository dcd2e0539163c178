"""Bundles to and from a hub on this machine, by huggingface_hub itself.

Needs huggingface_hub: pip install -r requirements/extras/hub.txt
"""

import dataclasses

import pytest

from audiolm_jax.bundles import load_bundle, save_bundle
from tests.bundles.local_hub import LocalHub

constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra hub")
COMMAND = "bundles.__main__"


@pytest.fixture
def hub(monkeypatch, tmp_path):
  local = LocalHub()
  monkeypatch.setattr(constants, "ENDPOINT", local.address)
  template = local.address + "/{repo_id}/resolve/{revision}/{filename}"
  monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
  monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  yield local
  local.close()


@pytest.fixture
def saved(miniature_bundle, tmp_path):
  return save_bundle(miniature_bundle, tmp_path / "mini")


def test_what_is_pushed_is_pulled(run_cli, hub, saved, miniature_bundle, tmp_path):
  (saved / "notes.txt").write_text("not of the bundle")
  pushed = run_cli(COMMAND, "push", saved, "user/mini")
  assert pushed.code == 0 and f"{hub.address}/user/mini" in pushed.out, pushed.err
  assert hub.created[0].get("visibility", "private") == "private"
  assert "notes.txt" not in hub.repositories["user/mini"]
  pulled = run_cli(COMMAND, "pull", "user/mini", tmp_path / "new")
  assert pulled.code == 0, pulled.err
  assert load_bundle(tmp_path / "new").token_hash == miniature_bundle.token_hash
  names = {p.name for p in saved.iterdir()} - {"notes.txt"}
  assert {p.name for p in (tmp_path / "new").iterdir()} == names
  assert not list(tmp_path.glob(".*.tmp"))


def test_push_replaces_a_bundle_only_with_overwrite(
  run_cli, hub, saved, miniature_bundle, tmp_path
):
  assert run_cli(COMMAND, "push", saved, "user/mini").code == 0
  smaller = dataclasses.replace(miniature_bundle, name="smaller", stages={})
  other = save_bundle(smaller, tmp_path / "smaller")
  before = dict(hub.repositories["user/mini"])
  refused = run_cli(COMMAND, "push", other, "user/mini")
  assert refused.code == 2 and "user/mini already contains a bundle" in refused.err
  assert hub.repositories["user/mini"] == before
  assert run_cli(COMMAND, "push", other, "user/mini", "--overwrite").code == 0
  assert "fine_stage.safetensors" not in hub.repositories["user/mini"]


def test_push_deletes_no_file_of_a_repository_without_a_bundle(run_cli, hub, saved):
  hub.repositories["user/mine"] = {"model.safetensors": b"mine", "README.md": b"# Mine"}
  pushed = run_cli(COMMAND, "push", saved, "user/mine")
  assert pushed.code == 0, pushed.err
  files = hub.repositories["user/mine"]
  assert files["model.safetensors"] == b"mine" and files["README.md"] == b"# Mine"
  assert {path.name for path in saved.iterdir()} < set(files)


def test_pull_replaces_a_bundle_only_with_overwrite(
  run_cli, hub, saved, miniature_bundle, tmp_path
):
  assert run_cli(COMMAND, "push", saved, "user/mini").code == 0
  other = save_bundle(dataclasses.replace(miniature_bundle, name="mine"), tmp_path / "mine")
  refused = run_cli(COMMAND, "pull", "user/mini", other)
  assert refused.code == 2 and "--overwrite it" in refused.err and load_bundle(other).name == "mine"
  assert run_cli(COMMAND, "pull", "user/mini", other, "--overwrite").code == 0
  assert load_bundle(other).name == "miniature"


def test_what_is_damaged_is_neither_pushed_nor_pulled(run_cli, hub, saved, tmp_path):
  assert run_cli(COMMAND, "push", saved, "user/mini").code == 0
  hub.repositories["user/mini"]["fine_stage.safetensors"] += b"x"
  pulled = run_cli(COMMAND, "pull", "user/mini", tmp_path / "new")
  assert pulled.code == 2 and "user/mini/fine_stage.safetensors is damaged" in pulled.err
  assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*.tmp"))
  (saved / "codec.safetensors").unlink()
  pushed = run_cli(COMMAND, "push", saved, "user/other")
  assert pushed.code == 2 and "codec.safetensors is missing" in pushed.err
  assert "user/other" not in hub.repositories


@pytest.mark.parametrize("name", ["user/none", "user/poems"])
def test_a_missing_bundle_is_reported_in_one_line(run_cli, hub, tmp_path, name):
  hub.repositories["user/poems"] = {"README.md": b"# Poems"}
  done = run_cli(COMMAND, "pull", name, tmp_path / "new")
  assert done.code == 2 and done.err.count("\n") == 1
  assert f"{name} contains no bundle: the repository does not exist" in done.err
  assert not (tmp_path / "new").exists()


def test_an_unreachable_hub_is_reported_in_one_line(run_cli, hub, saved, tmp_path):
  hub.close()
  for arguments in (("pull", "user/mini", tmp_path / "new"), ("push", saved, "user/mini")):
    done = run_cli(COMMAND, *arguments)
    assert done.code == 2 and "check that the hub can be reached" in done.err
    assert done.err.count("\n") == 1
