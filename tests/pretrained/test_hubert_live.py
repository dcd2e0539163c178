"""Our HuBERT against the one in `transformers`, live, at the base shape and the large kind.

pip install -r requirements/pretrained.txt
python -m pytest tests/pretrained -m "slow or not slow"
"""

import importlib

import numpy as np
import pytest

from audiolm_jax.pretrained import hubert
from audiolm_jax.pretrained.weights import read_published
from tests.pretrained.conftest import layers_of
from tests.pretrained.equality import relative_difference

pytest.importorskip("torch")
pytest.importorskip("transformers")
reference = importlib.import_module("tests.pretrained.hubert_reference")

LENGTHS = (16_000, 23_457, 720)


def assert_equal(model, folder):
  model.save_pretrained(folder)
  published = read_published(folder)
  config = hubert.read_config(published.config)
  params = hubert.convert_encoder(config, published.weights, config.num_layers)
  clips = [reference.sound(samples, i) for i, samples in enumerate(LENGTHS)]
  rows = np.zeros((len(clips), max(LENGTHS)), np.float32)
  for row, clip in zip(rows, clips, strict=True):
    row[: len(clip)] = clip
  encoder = hubert.HubertEncoder(config, config.num_layers)
  found = layers_of(encoder, {"params": params}, rows, LENGTHS)
  for i, clip in enumerate(clips):
    expected = reference.features(model, clip)
    assert len(expected) == config.num_layers + 1
    for layer in range(1, len(expected)):
      ours = found[layer][i, : len(expected[layer])]
      assert relative_difference(ours, expected[layer]) < 1e-4, (i, layer)
  return config


@pytest.mark.parametrize("kind", ["BASE", "LARGE", "BASE_25HZ"])
def test_small_models_equal_the_reference(kind, tmp_path):
  shape = reference.SMALL | getattr(reference, kind) | {"num_conv_pos_embeddings": 7}
  assert_equal(reference.random_hubert(1, **shape), tmp_path)


def test_padding_changes_the_reference_and_not_ours():
  model = reference.random_hubert(2, **reference.SMALL, **reference.BASE)
  clip = reference.sound(8_000, 0)
  alone = reference.features(model, clip)[2]
  padded = reference.features(model, np.pad(clip, (0, 8_000)))[2][: len(alone)]
  assert relative_difference(padded, alone) > 1e-2


@pytest.mark.slow
def test_the_published_shape_equals_the_reference(tmp_path):
  config = assert_equal(reference.random_hubert(3), tmp_path)
  assert config == hubert.HubertConfig()
