"""Our DAC against the one in `transformers`, live, at many shapes.

pip install -r requirements/pretrained.txt
python -m pytest tests/pretrained -m "slow or not slow"
"""

import importlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from audiolm_jax.pretrained import dac
from audiolm_jax.pretrained.weights import PublishedWeights, read_published
from tests.pretrained.conftest import latents_of
from tests.pretrained.equality import (
  assert_batched_equals_single,
  compare_codes,
  compare_sound,
  relative_difference,
)

pytest.importorskip("torch")
pytest.importorskip("transformers")
reference = importlib.import_module("tests.pretrained.dac_reference")

SMALL = {
  "encoder_hidden_size": 4,
  "decoder_hidden_size": 32,
  "n_codebooks": 3,
  "codebook_size": 64,
  "codebook_dim": 8,
}
SHAPES = {
  "strides of the 16 kHz model": {"downsampling_ratios": [2, 4, 5, 8]},
  "strides of the 44 kHz model": {"downsampling_ratios": [2, 4, 8, 8]},
  "odd strides": {"downsampling_ratios": [3, 5], "codebook_dim": 4},
  "one level": {"downsampling_ratios": [4, 2], "n_codebooks": 1},
}
# What descript/dac_16khz has in its config.json.
PUBLISHED = {
  "encoder_hidden_size": 64,
  "downsampling_ratios": [2, 4, 5, 8],
  "decoder_hidden_size": 1536,
  "n_codebooks": 12,
  "codebook_size": 1024,
  "codebook_dim": 8,
}


def ours_of(model, folder):
  model.save_pretrained(folder)
  published = read_published(folder)
  return dac.convert(published.config, published.weights)


def assert_equal(model, codec, lengths, tied_frames=0):
  clips = [reference.sound(samples, i) for i, samples in enumerate(lengths)]
  found = compare_codes(lambda clip: reference.encode(model, clip), codec, clips)
  assert found.different <= tied_frames, found
  for clip in clips:
    codes = reference.encode(model, clip)
    sound = compare_sound(lambda codes: reference.decode(model, codes), codec, codes)
    assert sound.relative < 1e-4
    odd = [s for s in codec.config.strides if s % 2]
    assert (sound.beyond > 0) == bool(odd)
    latents = latents_of(codec, np.pad(clip, (0, -len(clip) % codec.spec.hop_length)))
    assert relative_difference(latents[0], reference.latents(model, clip)) < 1e-4
  return found


@pytest.mark.parametrize("name", SHAPES)
def test_small_models_equal_the_reference(name, tmp_path):
  model = reference.random_dac(1, **SMALL | SHAPES[name])
  codec = ours_of(model, tmp_path)
  hop = codec.spec.hop_length
  assert_equal(model, codec, [hop, 41 * hop + 13])


def test_padding_changes_the_reference_and_not_ours(tmp_path):
  model = reference.random_dac(2, **SMALL, downsampling_ratios=[2, 4, 5])
  codec = ours_of(model, tmp_path)
  clips = [reference.sound(samples, i) for i, samples in enumerate((2000, 1200, 613))]
  assert_batched_equals_single(codec, clips, atol=1e-5)
  padded = reference.encode(model, np.pad(clips[1], (0, 800)))[:30]
  assert np.any(padded != reference.encode(model, clips[1]))


def test_weight_normalized_files_of_both_kinds_are_read(tmp_path):
  import torch  # pyright: ignore[reportMissingImports]: of a separate environment

  model = reference.random_dac(3, **SMALL, downsampling_ratios=[2, 4])
  plain = ours_of(model, tmp_path / "plain")
  clip = reference.sound(900, 0)
  config = json.loads((tmp_path / "plain" / "config.json").read_text())
  model.apply_weight_norm()
  state = {k: v.detach().numpy() for k, v in model.state_dict().items()}
  assert any("parametrizations" in name for name in state)
  older = reference.random_dac(3, **SMALL, downsampling_ratios=[2, 4])
  for module in older.modules():
    if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
      with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(module)
  older_state = {k: v.detach().numpy() for k, v in older.state_dict().items()}
  assert any(name.endswith("weight_g") for name in older_state)
  for tensors in (state, older_state):
    codec = dac.convert(config, PublishedWeights(tensors))
    np.testing.assert_array_equal(codec.encode(clip[None]), plain.encode(clip[None]))
    assert not np.isnan(codec.decode(codec.encode(clip[None]))).any()


@pytest.mark.slow
def test_the_published_shape_equals_the_reference(tmp_path):
  model = reference.random_dac(4, **PUBLISHED)
  codec = ours_of(model, tmp_path)
  assert codec.config == dac.DacConfig()
  names = set(load_file(tmp_path / "model.safetensors"))
  assert "encoder.block.3.res_unit3.conv2.weight" in names
  found = assert_equal(model, codec, [16_000, 23_457], tied_frames=1)
  print(f"{found.different} of {found.frames} frames have another code")
