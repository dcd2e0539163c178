"""What `convert --verify` prints for the miniatures, with transformers and without."""

import importlib
import importlib.util

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.pretrained.registry import find_model
from audiolm_jax.pretrained.verify import sound_of_the_check, verify
from audiolm_jax.pretrained.weights import PublishedWeights, read_published
from tests.pretrained.conftest import GOLDEN

with_reference = pytest.mark.skipif(
  not importlib.util.find_spec("torch"), reason="needs requirements/pretrained.txt"
)


def test_the_sound_of_the_check_is_always_the_same_and_fills_the_range():
  sound = sound_of_the_check(16_000)
  assert len(sound) == 48_000 and 0.2 < np.abs(sound).max() < 0.9
  np.testing.assert_array_equal(sound, sound_of_the_check(16_000))


def test_file_and_shapes_are_printed_before_the_reference_is_missed(run_cli):
  arguments = ("--from", "encodec_24khz", "--input", GOLDEN / "encodec")
  done = run_cli("convert", "--verify", *arguments, "--accept_licence", "NOASSERTION")
  published = read_published(GOLDEN / "encodec")
  assert f"SHA-256 {published.sha256}: no hash is known" in done.out
  assert f"{len(published.weights.tensors)} tensors" in done.out
  if importlib.util.find_spec("torch"):
    assert done.code == 0 and "sound of the same codes: within" in done.out
  else:
    assert done.code == 2 and "pip install -r requirements/pretrained.txt" in done.err


def test_an_encoder_is_verified_at_a_layer(run_cli):
  done = run_cli("convert", "--verify", "--from", "hubert_base", "--input", GOLDEN / "hubert")
  assert done.code == 2 and "hubert_base needs --layer" in done.err


@pytest.fixture
def folder_of(tmp_path):
  """A folder as transformers writes it, of a miniature's kind."""

  def folder(kind):
    if kind != "dac":  # its miniature is weight-normalized, which transformers does not read back
      return GOLDEN / kind
    reference = importlib.import_module("tests.pretrained.dac_reference")
    reference.random_dac(0, **reference.SHAPE).save_pretrained(tmp_path)
    return tmp_path

  return folder


@with_reference
@pytest.mark.parametrize(
  ("name", "kind", "layer", "tensor"),
  [
    ("dac_16khz", "dac", None, "encoder.conv1.bias"),
    ("encodec_24khz", "encodec", None, "decoder.layers.0.conv.bias"),
    ("mimi", "mimi", None, "decoder.layers.0.conv.bias"),
    ("w2v_bert_2", "w2v_bert_2", 2, "encoder.layers.1.final_layer_norm.bias"),
    ("hubert_base", "hubert", 2, "encoder.layers.1.final_layer_norm.bias"),
  ],
)
def test_equal_weights_are_verified_and_others_found_out(name, kind, layer, tensor, folder_of):
  published = read_published(folder_of(kind))
  printed = list(verify(find_model(name), published, layer))
  assert len(printed) == (4 if layer is None else 3)
  assert all("within" in line or "frames" in line for line in printed[2:])

  tensors = dict(published.weights.tensors)
  tensors[tensor] = tensors[tensor] + 0.5
  others = published._replace(weights=PublishedWeights(tensors))
  with pytest.raises(DataError, match=r"transformers|are not what"):
    list(verify(find_model(name), others, layer))


@with_reference
def test_weights_that_the_reference_would_replace_by_random_ones_are_named():
  with pytest.raises(UserError, match="would take random weights"):
    list(verify(find_model("dac_16khz"), read_published(GOLDEN / "dac"), None))
