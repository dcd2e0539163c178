"""Bundles as folders: what is written is what is read, and what is wrong is named."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

from audiolm_jax.bundles import (
  folder,
  inspection,
  list_bundles,
  load_bundle,
  manifest,
  save_bundle,
  tensors,
)
from audiolm_jax.bundles.tensors import Storage
from audiolm_jax.core.errors import BundleError


def assert_same_params(a, b):
  a, b = tensors.flatten_params(a), tensors.flatten_params(b)
  assert list(a) == list(b)
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.fixture
def saved(miniature_bundle, tmp_path):
  return save_bundle(miniature_bundle, tmp_path / "mini")


def edit(saved, change):
  manifest = json.loads((saved / "bundle.json").read_text())
  change(manifest)
  (saved / "bundle.json").write_text(json.dumps(manifest))


def test_a_saved_bundle_loads_as_itself(miniature_bundle, saved):
  loaded = load_bundle(saved)
  for name in ("codec", "semantic"):
    before, after = getattr(miniature_bundle, name), getattr(loaded, name)
    assert before.config == after.config and before.spec == after.spec
    assert_same_params(before.params, after.params)
  assert list(loaded.stages) == ["semantic", "coarse", "fine"]
  for name, stage in miniature_bundle.stages.items():
    assert loaded.stages[name].spec == stage.spec and loaded.stages[name].config == stage.config
    assert_same_params(loaded.stages[name].params, stage.params)
  for name in ("name", "token_hash", "semantic_rate", "model_card", "sample_rate", "metadata"):
    assert getattr(loaded, name) == getattr(miniature_bundle, name)
  assert loaded.path == saved


def test_saving_what_was_loaded_gives_the_same_files(saved, tmp_path):
  again = save_bundle(load_bundle(saved), tmp_path / "again")
  names = sorted(p.name for p in saved.iterdir())
  assert names == sorted(p.name for p in again.iterdir())
  assert names == [
    "MODEL_CARD.md",
    "bundle.json",
    "coarse_stage.safetensors",
    "codec.safetensors",
    "fine_stage.safetensors",
    "semantic.safetensors",
    "semantic_stage.safetensors",
  ]
  for name in names:
    assert (saved / name).read_bytes() == (again / name).read_bytes()


def test_float16_keeps_the_tokenizers_that_stages_were_trained_on(miniature_bundle, tmp_path):
  loaded = load_bundle(save_bundle(miniature_bundle, tmp_path / "a", storage="float16"))
  assert loaded.token_hash == miniature_bundle.token_hash
  assert_same_params(loaded.codec.params, miniature_bundle.codec.params)  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it
  stage = loaded.stages["coarse"]
  assert tensors.survives(stage.params, Storage.FLOAT16)
  assert not tensors.survives(miniature_bundle.stages["coarse"].params, Storage.FLOAT16)


@pytest.mark.parametrize("width", ["float16", "int8"])
def test_narrow_tokenizers_stay_the_same_when_stages_join_them(miniature_bundle, tmp_path, width):
  bare = dataclasses.replace(miniature_bundle, stages={}, semantic_rate=None)
  tokenizers = load_bundle(save_bundle(bare, tmp_path / "a", storage=width))
  assert tokenizers.token_hash != miniature_bundle.token_hash
  joined = dataclasses.replace(tokenizers, stages=miniature_bundle.stages, semantic_rate=8.0)
  loaded = load_bundle(save_bundle(joined, tmp_path / "b", storage=width))
  assert loaded.token_hash == tokenizers.token_hash
  size = (tmp_path / "b" / "codec.safetensors").stat().st_size
  assert size == (tmp_path / "a" / "codec.safetensors").stat().st_size


def test_narrow_tokenizers_with_hardly_used_weights_load_again(miniature_bundle, tmp_path):
  faded = jax.tree.map(
    lambda x: x * np.geomspace(2e-3, 1.0, len(x)).reshape(-1, *[1] * (x.ndim - 1)),
    dict(miniature_bundle.codec.params),
  )
  codec = type(miniature_bundle.codec)(miniature_bundle.codec.config, faded)
  bundle = dataclasses.replace(miniature_bundle, codec=codec, stages={})
  loaded = load_bundle(save_bundle(bundle, tmp_path / "faded", storage="int8"))
  assert tensors.survives(loaded.codec.params, Storage.INT8)  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it


def test_int8_stages_keep_their_tokens_and_stay_as_they_are(miniature_bundle, tmp_path):
  loaded = load_bundle(save_bundle(miniature_bundle, tmp_path / "a", storage="int8"))
  assert loaded.token_hash == miniature_bundle.token_hash
  assert not tensors.survives(miniature_bundle.stages["coarse"].params, Storage.INT8)
  again = load_bundle(save_bundle(loaded, tmp_path / "b", storage="int8"))
  for name, stage in loaded.stages.items():
    before, after = (tensors.flatten_params(p) for p in (stage.params, again.stages[name].params))
    for key, value in before.items():
      np.testing.assert_allclose(after[key], value, rtol=1e-6)


def test_tokenizers_alone_are_a_bundle_and_can_be_loaded_alone(miniature_bundle, saved, tmp_path):
  bare = dataclasses.replace(miniature_bundle, stages={}, semantic_rate=None)
  loaded = load_bundle(save_bundle(bare, tmp_path / "bare"))
  assert not loaded.stages and loaded.token_hash == miniature_bundle.token_hash
  (saved / "coarse_stage.safetensors").unlink()
  assert not load_bundle(saved, stages=()).stages
  assert list(load_bundle(saved, stages=["semantic"]).stages) == ["semantic"]
  with pytest.raises(BundleError, match="has no extra stage; it has semantic, coarse, fine"):
    load_bundle(saved, stages=["extra"])


def test_parts_of_a_shipped_bundle_are_read_from_it(miniature_bundle, tmp_path, monkeypatch):
  monkeypatch.setattr(manifest, "_SHIPPED", tmp_path / "shipped")
  (tmp_path / "shipped").mkdir()
  save_bundle(miniature_bundle, tmp_path / "shipped" / "base")
  coarse = miniature_bundle.stages["coarse"]
  other = dataclasses.replace(coarse, params=jax.tree.map(lambda x: 2 * x, coarse.params))
  stages = {**miniature_bundle.stages, "coarse": other}
  bundle = dataclasses.replace(miniature_bundle, stages=stages)
  saved = save_bundle(bundle, tmp_path / "shipped" / "further", shared_with="base")
  files = {p.name for p in saved.iterdir()}
  assert files == {"MODEL_CARD.md", "bundle.json", "coarse_stage.safetensors"}
  loaded = load_bundle(saved)
  assert_same_params(loaded.stages["coarse"].params, other.params)
  for name in ("semantic", "fine"):
    assert_same_params(loaded.stages[name].params, miniature_bundle.stages[name].params)
  assert {p.bundle for p in inspection.list_parts(saved)} == {"", "base"}
  assert inspection.shares_parts(saved) and not inspection.shares_parts("base")
  assert not inspection.find_damage(saved)

  # A bundle that shares with this one refers to the bundle that has the file.
  again = save_bundle(bundle, tmp_path / "again", shared_with="further")
  assert {p.name: p.bundle for p in inspection.list_parts(again)} == {
    **dict.fromkeys(("codec", "semantic", "semantic_stage", "fine_stage"), "base"),
    "coarse_stage": "further",
  }
  whole = save_bundle(load_bundle(again), tmp_path / "whole")
  assert len(list(whole.glob("*.safetensors"))) == 5
  (tmp_path / "shipped" / "base" / "codec.safetensors").unlink()
  with pytest.raises(BundleError, match=r"base/codec.safetensors"):
    load_bundle(saved)


def test_what_cannot_be_shared_is_refused(miniature_bundle, tmp_path, saved):
  with pytest.raises(BundleError, match=r"no part of .* is equal to one of piano_tiny"):
    save_bundle(miniature_bundle, tmp_path / "a", shared_with="piano_tiny")
  with pytest.raises(BundleError, match="no bundle 'mine' ships with this version; it has piano"):
    save_bundle(miniature_bundle, tmp_path / "a", shared_with="mine")
  assert not (tmp_path / "a").exists()
  edit(saved, lambda manifest: manifest["components"]["codec"].update(bundle="../secret"))
  with pytest.raises(BundleError, match=r"no bundle '\.\./secret' ships"):
    load_bundle(saved)


def test_a_bundle_replaces_a_bundle_and_nothing_else(miniature_bundle, saved, tmp_path):
  renamed = dataclasses.replace(miniature_bundle, name="second")
  save_bundle(renamed, saved)
  assert load_bundle(saved).name == "second"
  (tmp_path / "holiday").mkdir()
  (tmp_path / "holiday" / "photo.jpg").touch()
  with pytest.raises(BundleError, match="exists and is not a bundle"):
    save_bundle(miniature_bundle, tmp_path / "holiday")
  (tmp_path / "file").touch()
  for place, words in [
    (tmp_path / "file", "is a file"),
    (tmp_path / "none" / "bundle", "does not exist"),
  ]:
    with pytest.raises(BundleError, match=words):
      save_bundle(miniature_bundle, place)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "holiday", "mini"]


def test_a_save_that_fails_leaves_the_old_bundle(miniature_bundle, saved, tmp_path, monkeypatch):
  def full(path, content):
    if path.name.startswith("fine"):
      raise OSError(28, "No space left on device")
    path.write_bytes(content)

  monkeypatch.setattr(folder, "_write_bytes", full)
  with pytest.raises(BundleError, match="No space left"):
    save_bundle(dataclasses.replace(miniature_bundle, name="second"), saved)
  assert load_bundle(saved).name == "miniature"
  assert [p.name for p in tmp_path.iterdir()] == ["mini"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_bundle(
  miniature_bundle, saved, tmp_path, monkeypatch
):
  rename, calls = os.rename, []

  def second_fails(source, target):
    calls.append(target)
    if len(calls) == 2:
      raise OSError(13, "Permission denied")
    rename(source, target)

  monkeypatch.setattr(folder.os, "rename", second_fails)
  with pytest.raises(BundleError, match="Permission denied"):
    save_bundle(dataclasses.replace(miniature_bundle, name="second"), saved)
  assert load_bundle(saved).name == "miniature"
  assert [p.name for p in tmp_path.iterdir()] == ["mini"]


@pytest.mark.parametrize("value", [{1, 2}, np.float32(1.0), {("a", "b"): 1}, float("nan")])
def test_metadata_that_are_not_json_are_refused(miniature_bundle, tmp_path, value):
  bundle = dataclasses.replace(miniature_bundle, metadata={"steps": value})
  with pytest.raises(BundleError, match="'miniature' cannot be written as a bundle") as caught:
    save_bundle(bundle, tmp_path / "mini")
  assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_unknown_names_list_the_shipped_bundles(tmp_path, monkeypatch, saved):
  with pytest.raises(BundleError, match="no bundle 'speech_large'"):
    load_bundle("speech_large")
  (tmp_path / "empty").mkdir()
  with pytest.raises(BundleError, match=r"not a bundle: it has no bundle\.json"):
    load_bundle(tmp_path / "empty")
  monkeypatch.setattr(manifest, "_SHIPPED", tmp_path)
  assert list_bundles() == ["mini"]
  assert load_bundle("mini").name == "miniature"
  with pytest.raises(BundleError, match="the shipped bundles are mini"):
    load_bundle("speech_large")


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda m: m.update(format_version=99), "format version 99, this program reads 1 to 3"),
    (lambda m: m.pop("format_version"), "format version None"),
    (lambda m: m.pop("components"), "lacks or misnames 'components'"),
    (lambda m: m["components"].pop("codec"), "lacks or misnames 'codec'"),
    (lambda m: m["components"]["codec"].update(type="mp3"), "unknown type 'mp3'"),
    (lambda m: m["components"]["codec"]["config"].update(colour=1), "has no field 'colour'"),
    (
      lambda m: m["components"]["codec"]["config"].update(strides=4),
      "SoundStreamConfig.strides is 4; it must be a list",
    ),
    (lambda m: m.update(components=[]), r"components is \[\]; it must be a JSON object"),
    (lambda m: m.update(token_hash="0123"), r"bundle\.json has token hash 0123, its tokenizers"),
    (
      lambda m: m["components"]["coarse_stage"].update(token_hash="0123"),
      "the coarse stage was trained on other tokens",
    ),
    *(
      (
        lambda m, name=name: m["components"][name].update(hash="0123"),
        rf"{name}\.safetensors does not hold the weights",
      )
      for name in ("codec", "semantic", "coarse_stage")
    ),
    (lambda m: m["temperatures"].update(rough=1.0), "'rough', which is not one of its stages"),
  ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, change, words):
  edit(saved, change)
  with pytest.raises(BundleError, match=words) as caught:
    load_bundle(saved)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"null"])
def test_a_damaged_manifest_is_refused(saved, content):
  (saved / "bundle.json").write_bytes(content)
  with pytest.raises(BundleError, match=r"bundle\.json") as caught:
    load_bundle(saved)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("component", ["codec", "semantic", "fine_stage"])
def test_missing_and_truncated_weights_are_refused(saved, component):
  path = saved / f"{component}.safetensors"
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(BundleError, match=rf"{component}\.safetensors is damaged"):
    load_bundle(saved)
  path.unlink()
  with pytest.raises(BundleError, match=rf"{component}\.safetensors is missing"):
    load_bundle(saved)


def test_a_codec_of_another_bundle_is_refused(miniature_bundle, saved, tmp_path):
  other = dataclasses.replace(
    miniature_bundle,
    codec=type(miniature_bundle.codec)(
      miniature_bundle.codec.config, jax.tree.map(lambda x: x * 1.5, miniature_bundle.codec.params)
    ),
  )
  assert other.token_hash != miniature_bundle.token_hash
  foreign = save_bundle(other, tmp_path / "other")
  shutil.copy(foreign / "codec.safetensors", saved / "codec.safetensors")
  with pytest.raises(BundleError, match=r"codec\.safetensors does not hold the weights") as caught:
    load_bundle(saved)
  assert "\n" not in str(caught.value)


def test_stages_stay_valid_with_another_decoder_and_with_no_other_encoder(miniature_bundle):
  codec = miniature_bundle.codec

  def with_part_changed(name):
    changed = {**codec.params, name: jax.tree.map(lambda x: x * 1.5, codec.params[name])}
    return dataclasses.replace(miniature_bundle, codec=type(codec)(codec.config, changed))

  assert with_part_changed("decoder").token_hash == miniature_bundle.token_hash
  for name in ("encoder", "codebooks"):
    assert with_part_changed(name).token_hash != miniature_bundle.token_hash
