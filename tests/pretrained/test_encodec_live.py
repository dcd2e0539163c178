"""Our EnCodec against the one in `transformers`, live, at many shapes.

pip install -r requirements/pretrained.txt
python -m pytest tests/pretrained -m "slow or not slow"
"""

import importlib

import numpy as np
import pytest

from audiolm_jax.pretrained import encodec
from audiolm_jax.pretrained.encodec_layers import EncodecConfig
from audiolm_jax.pretrained.reference import reference_of
from audiolm_jax.pretrained.weights import read_published
from tests.pretrained.equality import assert_batched_equals_single, assert_equals_reference

pytest.importorskip("torch")
pytest.importorskip("transformers")
reference = importlib.import_module("tests.pretrained.encodec_reference")

SMALL = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64}
SHAPES = {
  "strides of the 24 kHz model": {"upsampling_ratios": [8, 5, 4, 2], "target_bandwidths": [1.35]},
  "strides of one kind": {"upsampling_ratios": [3, 3], "target_bandwidths": [48.0]},
  "one level": {"upsampling_ratios": [2, 4], "target_bandwidths": [18.0]},
}


def ours_of(model, folder):
  model.save_pretrained(folder)
  published = read_published(folder)
  return encodec.convert(published.config, published.weights)


def assert_equal(model, codec, lengths, tied_frames=0):
  clips = [reference.sound(samples, i) for i, samples in enumerate(lengths)]
  return assert_equals_reference(reference_of(model), codec, clips, tied_frames)


@pytest.mark.parametrize("name", SHAPES)
def test_small_models_equal_the_reference_at_every_remainder(name, tmp_path):
  model = reference.random_encodec(1, **SMALL | SHAPES[name])
  codec = ours_of(model, tmp_path)
  hop = codec.spec.hop_length
  some = np.unique(np.linspace(1, hop, 9).astype(int))
  assert_equal(model, codec, [1, hop, *(7 * hop + some), *(41 * hop + some[:3])])


def test_padding_changes_the_reference_and_not_ours(tmp_path):
  model = reference.random_encodec(2, **SMALL, upsampling_ratios=[5, 4, 2])
  codec = ours_of(model, tmp_path)
  clips = [reference.sound(samples, i) for i, samples in enumerate((2000, 1213, 613))]
  assert_batched_equals_single(codec, clips, atol=1e-5)
  alone = reference.encode(model, clips[1])
  padded = reference.encode(model, np.pad(clips[1], (0, 787)))[: len(alone)]
  assert np.any(padded[-1] != alone[-1])
  np.testing.assert_array_equal(padded[:-1], alone[:-1])


@pytest.mark.slow
def test_the_published_shape_equals_the_reference(tmp_path):
  model = reference.random_encodec(4)
  codec = ours_of(model, tmp_path)
  assert codec.config == EncodecConfig()
  found = assert_equal(model, codec, [24_000, 31_457], tied_frames=1)
  print(f"{found.different} of {found.frames} frames have another code")
