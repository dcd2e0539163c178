"""Our Mimi against the one in `transformers`, live, at many shapes.

pip install -r requirements/pretrained.txt
python -m pytest tests/pretrained -m "slow or not slow"
"""

import importlib

import numpy as np
import pytest

from audiolm_jax.pretrained import mimi
from audiolm_jax.pretrained.mimi_layers import MimiConfig
from audiolm_jax.pretrained.reference import reference_of
from audiolm_jax.pretrained.weights import read_published
from tests.pretrained.equality import assert_batched_equals_single, assert_equals_reference

pytest.importorskip("torch")
pytest.importorskip("transformers")
reference = importlib.import_module("tests.pretrained.mimi_reference")

SHAPES = {
  "strides of the published model": {"upsampling_ratios": [8, 6, 5, 4], "sliding_window": 12},
  "two semantic levels": {"num_semantic_quantizers": 2, "sliding_window": 30},
}


def ours_of(model, folder):
  model.save_pretrained(folder)
  published = read_published(folder)
  return mimi.convert(published.config, published.weights)


def assert_equal(model, codec, lengths, tied_frames=0):
  clips = [reference.sound(samples, i) for i, samples in enumerate(lengths)]
  return assert_equals_reference(reference_of(model), codec, clips, tied_frames)


@pytest.mark.parametrize("name", SHAPES)
def test_small_models_equal_the_reference_at_every_remainder(name, tmp_path):
  model = reference.random_mimi(1, **reference.SHAPE | SHAPES[name])
  codec = ours_of(model, tmp_path)
  hop = codec.spec.hop_length
  some = np.unique(np.linspace(1, hop, 9).astype(int))
  assert_equal(model, codec, [1, hop, *(7 * hop + some), *(61 * hop + some[:3])])


def test_padding_changes_the_reference_and_not_ours(tmp_path):
  model = reference.random_mimi(2, **reference.SHAPE)
  codec = ours_of(model, tmp_path)
  clips = [reference.sound(samples, i) for i, samples in enumerate((2000, 1213, 613))]
  assert_batched_equals_single(codec, clips, atol=1e-5)
  alone = reference.halves(model, clips[1])
  padded = reference.halves(model, np.pad(clips[1], (0, 787)))[: len(alone)]
  assert np.any(padded[-1] != alone[-1])
  np.testing.assert_allclose(padded[:-1], alone[:-1], atol=1e-4)


@pytest.mark.slow
def test_the_published_shape_equals_the_reference(tmp_path):
  model = reference.random_mimi(4)
  codec = ours_of(model, tmp_path)
  assert codec.config == MimiConfig()
  found = assert_equal(model, codec, [48_000, 61_457], tied_frames=1)
  print(f"{found.different} of {found.frames} frames have another code")
