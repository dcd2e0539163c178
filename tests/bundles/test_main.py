"""`python -m audiolm_jax.bundles`: lists, describes, verifies, pushes and pulls bundles."""

import dataclasses
import json
import sys

import jax
import pytest

from audiolm_jax.bundles import inspection, list_bundles, manifest, save_bundle

COMMAND = "bundles.__main__"


@pytest.fixture
def saved(miniature_bundle, tmp_path):
  described = dataclasses.replace(
    miniature_bundle,
    description="A system of random weights.",
    metadata={"licence": "CC0", "data": [{"name": "melodies", "hours": 0.5, "licence": "none"}]},
    model_card="# Mini\n\nIt hums.\n\nIt is not read out.\n",
  )
  return save_bundle(described, tmp_path / "mini")


def test_list_names_the_bundles_that_ship_with_their_sizes(run_cli):
  done = run_cli(COMMAND, "list")
  assert done.code == 0
  lines = done.out.splitlines()
  assert [line.split()[0] for line in lines] == list_bundles()
  for line in lines:
    path = manifest.find_folder(line.split()[0])
    size = sum(p.stat().st_size for p in path.iterdir()) / 1e6
    assert f" {size:.1f} MB  16000 Hz, stages semantic, " in line


def test_list_also_finds_bundles_in_the_folders_given(run_cli, saved, tmp_path):
  damaged = tmp_path / "worn"
  damaged.mkdir()
  (damaged / "bundle.json").write_text("{}")
  lines = run_cli(COMMAND, "list", tmp_path).out.splitlines()[len(list_bundles()) :]
  assert [line.split()[0] for line in lines] == [str(saved), str(damaged)]
  assert "A system of random weights." in lines[0] and "damaged:" in lines[1]
  assert run_cli(COMMAND, "list", tmp_path / "none").code == 2


def test_info_prints_parts_sizes_token_hash_licence_data_and_the_head_of_the_card(
  run_cli, saved, miniature_bundle
):
  out = run_cli(COMMAND, "info", saved).out
  assert f"token hash   {miniature_bundle.token_hash}" in out and "licence      CC0" in out
  assert "0.5 h  melodies; none" in out
  assert "# Mini\n\nIt hums." in out and "not read out" not in out
  parts = [line.split() for line in out.partition("parts\n")[2].splitlines()[:5]]
  stages = ["semantic_stage", "coarse_stage", "fine_stage"]
  assert [part[0] for part in parts] == ["codec", "semantic", *stages]
  assert parts[0][-1] == "soundstream" and parts[1][-1] == "w2v_bert"
  size = (saved / "codec.safetensors").stat().st_size / 1e6
  assert parts[0][1:3] == [f"{size:.2f}", "MB"]


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_info_counts_the_weights_and_not_what_stores_them(
  run_cli, miniature_bundle, tmp_path, storage
):
  wide = dataclasses.replace(miniature_bundle, stages={})
  stored = save_bundle(wide, tmp_path / "wide", storage=storage)
  count = sum(leaf.size for leaf in jax.tree.leaves(miniature_bundle.codec.params))
  assert inspection.list_parts(stored)[0].parameters == count


def test_a_whole_bundle_is_verified(run_cli, saved):
  done = run_cli(COMMAND, "verify", saved)
  assert (done.code, done.out) == (0, f"{saved}: intact, 5 parts\n")


def test_every_damaged_part_is_reported_and_the_exit_code_is_1(run_cli, saved):
  (saved / "codec.safetensors").unlink()
  path = saved / "coarse_stage.safetensors"
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  semantic = saved / "semantic.safetensors"
  semantic.write_bytes(semantic.read_bytes()[:-4])
  done = run_cli(COMMAND, "verify", saved)
  assert done.code == 1
  missing, cut, flipped = done.out.splitlines()
  assert "codec.safetensors is missing" in missing
  assert "semantic.safetensors is damaged" in cut
  assert "coarse_stage.safetensors does not hold the weights" in flipped


def test_intact_parts_that_do_not_fit_together_are_damage(run_cli, saved):
  manifest = json.loads((saved / "bundle.json").read_text())
  manifest["components"]["fine_stage"]["token_hash"] = "0123"
  (saved / "bundle.json").write_text(json.dumps(manifest))
  done = run_cli(COMMAND, "verify", saved)
  assert done.code == 1 and "the fine stage was trained on other tokens" in done.out


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda m: m.update(format_version=4), "format version 4, this program reads 1 to 3"),
    (lambda m: m.pop("components"), "names no components"),
    (
      lambda m: (
        m.update(format_version=1, stages=[stage["name"] for stage in m["stages"]]),
        m.pop("token_hash"),
      ),
      "lacks or misnames 'token_hash'",
    ),
  ],
)
def test_a_description_that_cannot_be_used_is_damage_in_one_line(run_cli, saved, change, words):
  manifest = json.loads((saved / "bundle.json").read_text())
  change(manifest)
  (saved / "bundle.json").write_text(json.dumps(manifest))
  done = run_cli(COMMAND, "verify", saved)
  assert done.code == 1 and words in done.out and done.out.count("\n") == 1


def test_wrong_arguments_are_reported_in_one_line(run_cli, saved, tmp_path):
  for arguments, words in (
    ((), "give a command: list, info, verify, push, pull"),
    (("lists",), "'lists' is not a command"),
    (("info",), "give BUNDLE after info, not 0 arguments"),
    (("verify", "no_such_bundle"), "no bundle 'no_such_bundle'"),
    (("push", saved, "mini"), "'mini' is not the name of a repository; write USER/NAME"),
    (("pull", "user/mini", saved), f"{saved} exists; choose another folder, or --overwrite it"),
  ):
    done = run_cli(COMMAND, *arguments)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, arguments


def test_without_huggingface_hub_push_and_pull_name_what_to_install(
  run_cli, saved, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  for arguments in (("push", saved, "user/mini"), ("pull", "user/mini", tmp_path / "new")):
    done = run_cli(COMMAND, *arguments)
    assert done.code == 2 and "pip install huggingface_hub, or copy" in done.err
  assert not (tmp_path / "new").exists()
