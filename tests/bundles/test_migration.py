"""Bundles of format 1 are read as what they were; what they do not hold is refused."""

import hashlib
import json

import pytest
import safetensors.numpy

from audiolm_jax.bundles import load_bundle, save_bundle, tensors
from audiolm_jax.bundles.migration import FORMAT_VERSION
from audiolm_jax.core import configs
from audiolm_jax.core.errors import BundleError


def edit(saved, change):
  manifest = json.loads((saved / "bundle.json").read_text())
  change(manifest)
  (saved / "bundle.json").write_text(json.dumps(manifest))


@pytest.fixture
def format_1(miniature_bundle, tmp_path):
  """The miniature as the first format had it: one hash, of all weights of both tokenizers."""
  saved = save_bundle(miniature_bundle, tmp_path / "old")
  tokenizers = (miniature_bundle.codec, miniature_bundle.semantic)
  parts = [[tensors.hash_params(t.params), configs.to_dict(t.spec)] for t in tokenizers]
  whole = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

  def older(manifest):
    manifest["format_version"] = 1
    manifest["stages"] = [stage["name"] for stage in manifest["stages"]]
    manifest["token_hash"] = whole
    del manifest["temperatures"]
    for name, component in manifest["components"].items():
      if name in ("codec", "semantic"):
        del component["hash"]
      else:
        component["token_hash"] = whole

  edit(saved, older)
  return saved


def test_a_bundle_of_format_1_loads_as_the_one_of_today(miniature_bundle, format_1):
  before = (format_1 / "bundle.json").read_bytes()
  loaded = load_bundle(format_1)
  assert loaded.token_hash == miniature_bundle.token_hash
  assert list(loaded.stages) == ["semantic", "coarse", "fine"]
  assert tensors.hash_params(loaded.codec.params) == tensors.hash_params(  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it
    miniature_bundle.codec.params
  )
  assert (format_1 / "bundle.json").read_bytes() == before


def test_a_bundle_of_format_1_saved_again_is_of_the_format_of_today(format_1, tmp_path):
  again = save_bundle(load_bundle(format_1), tmp_path / "new")
  manifest = json.loads((again / "bundle.json").read_text())
  assert manifest["format_version"] == FORMAT_VERSION == 3
  assert load_bundle(again).token_hash == manifest["token_hash"]


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_other_tokenizer_weights_in_format_1_are_refused(format_1, part):
  path = format_1 / "codec.safetensors"
  flat = safetensors.numpy.load_file(path)
  flat |= {name: 1.5 * value for name, value in flat.items() if name.startswith(part)}
  safetensors.numpy.save_file(flat, path)
  with pytest.raises(BundleError, match="does not hold the weights that bundle"):
    load_bundle(format_1)


def test_a_stage_of_other_tokens_in_format_1_is_refused_by_name(format_1):
  edit(format_1, lambda m: m["components"]["coarse_stage"].update(token_hash="0123"))
  with pytest.raises(BundleError, match="the coarse stage was trained on other tokens"):
    load_bundle(format_1)


@pytest.mark.parametrize("version", [0, 4, "1", True, None, [1]])
def test_an_unknown_version_is_rejected_with_the_fix(format_1, version):
  edit(format_1, lambda m: m.update(format_version=version))
  with pytest.raises(
    BundleError, match=r"this program reads 1 to 3; export .* or update"
  ) as caught:
    load_bundle(format_1)
  assert "\n" not in str(caught.value)


def test_a_damaged_manifest_of_format_1_is_refused_in_one_line(format_1):
  edit(format_1, lambda m: m["components"].pop("semantic"))
  with pytest.raises(BundleError, match="lacks or misnames 'semantic'"):
    load_bundle(format_1)
