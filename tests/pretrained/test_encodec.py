"""Our EnCodec against what `transformers` made of the same weights (see encodec_reference.py)."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.codec.quantizer import dequantize, residual_quantize
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.pretrained import encodec
from audiolm_jax.pretrained.encodec_layers import EncodecConfig, EncodecEncoder
from audiolm_jax.pretrained.weights import PublishedWeights, read_published
from tests.pretrained.conftest import GOLDEN, miniature_encodec
from tests.pretrained.equality import (
  compare_codes,
  compare_sound,
  relative_difference,
)

# Whole frames of 40; not; one sample more than 7 frames; fewer than 7 frames; less than one.
LENGTHS = (1200, 1733, 281, 130, 3)


@pytest.fixture(scope="module")
def codec():
  """Four levels of 16 entries, 600 frames per second."""
  return miniature_encodec()


@pytest.fixture(scope="module")
def expected():
  with np.load(GOLDEN / "encodec" / "expected.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def clips(expected):
  return [expected[f"waveform_{i}"] for i in range(len(LENGTHS))]


def latents_of(codec, clip, padded=2000):
  """The encoder's output [frames, latent] for a whole clip at once."""
  apply = jax.jit(EncodecEncoder(codec.config).apply)
  ends, state = np.array([len(clip)], np.int32), codec.config.encoder_state(1)
  waveform = np.pad(clip, (0, padded - len(clip)))[None]
  latents, _ = apply({"params": codec.params["encoder"]}, waveform, ends, state)
  return np.asarray(latents)[0, : -(-len(clip) // codec.spec.hop_length)]


def test_codes_equal_the_reference_whatever_the_length(codec, clips, expected):
  known = {samples: expected[f"codes_{i}"] for i, samples in enumerate(LENGTHS)}
  found = compare_codes(lambda clip: known[len(clip)], codec, clips)
  assert found.frames == 30 + 44 + 8 + 4 + 1 and found.different == 0
  assert all(len(np.unique(known[samples])) > 9 for samples in LENGTHS[:4])


def test_features_equal_the_reference(codec, clips, expected):
  for i, clip in enumerate(clips):
    assert relative_difference(latents_of(codec, clip), expected[f"latents_{i}"]) < 1e-4


def test_sound_of_all_levels_and_of_the_first_equals_the_reference(codec, expected):
  for i in range(len(LENGTHS)):
    codes = expected[f"codes_{i}"]
    for name, count in (("sound", 4), ("sound_of_2_levels", 2)):
      reference = expected[f"{name}_{i}"]
      found = compare_sound(lambda codes, known=reference: known, codec, codes[:, :count])
      assert found.relative < 1e-4 and found.beyond == 0


def test_a_clip_longer_than_a_block_equals_the_whole_model(codec, clips):
  long = np.tile(clips[1], 8)
  for missing in (11, 25, 37):  # blocks of 250 frames and 53, the last one cut short
    clip = long[: 303 * 40 - missing]
    codes = jax.jit(residual_quantize)(latents_of(codec, clip, 303 * 40), codec.codebooks)
    np.testing.assert_array_equal(codec.encode_long(clip), np.asarray(codes))


def test_a_stream_waits_for_seven_frames_and_then_for_none(codec, clips):
  stream, clip = codec.stream_encoder(), clips[0][None]
  assert stream.push(clip[:, : 7 * 40 - 1]).shape[1] == 0
  assert stream.push(clip[:, 7 * 40 - 1 : 7 * 40]).shape[1] == 7
  assert stream.push(clip[:, 7 * 40 : 8 * 40]).shape[1] == 1
  assert stream.flush().shape[1] == 0
  assert EncodecConfig().first_frames == 7


def test_the_first_frame_reads_six_frames_ahead_and_the_others_none(codec, clips):
  clip = clips[0].copy()
  before = latents_of(codec, clip)
  clip[7 * 40 :] *= -1
  after = latents_of(codec, clip)
  np.testing.assert_array_equal(after[:7], before[:7])
  assert np.any(after[7] != before[7])
  clip[6 * 40 : 7 * 40] *= -1  # what only the mirror of the last layer shows to the first frame
  assert np.any(latents_of(codec, clip)[0] != before[0])


def test_plain_weights_and_both_kinds_of_weight_normalization_are_the_same(codec, clips):
  published = read_published(GOLDEN / "encodec")
  tensors = published.weights.tensors
  older, plain = {}, {}
  for name, value in tensors.items():
    older[
      name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
      )
    ] = value
    layer, parameter = name.rsplit(".parametrizations", 1)[0], name.rsplit(".", 1)[1]
    if parameter == "original0":
      plain[f"{layer}.weight"] = PublishedWeights(tensors).weight(layer)
    elif parameter != "original1":
      plain[name] = value
  assert len(plain) < len(older) == len(tensors)
  for variant in (older, plain):
    other = encodec.convert(published.config, PublishedWeights(variant))
    np.testing.assert_array_equal(other.encode(clips[0][None]), codec.encode(clips[0][None]))


def test_the_defaults_are_the_published_24_khz_model():
  spec = EncodecConfig().spec
  assert (spec.sample_rate, spec.hop_length, spec.frame_rate) == (24_000, 320, 75.0)
  assert (spec.num_quantizers, spec.codebook_size, spec.bits_per_second) == (32, 1024, 24_000.0)


def test_the_sum_of_the_codebooks_entries_is_what_is_decoded(codec, expected):
  codes, entries = expected["codes_0"], np.asarray(codec.codebooks)
  summed = sum(entries[level][codes[:, level]] for level in range(codes.shape[1]))
  latents = dequantize(jnp.asarray(codes), codec.params["codebooks"])
  np.testing.assert_allclose(summed, latents, rtol=0, atol=1e-5)


def test_weights_that_do_not_fit_are_named():
  published = read_published(GOLDEN / "encodec")
  config, tensors = published.config, published.weights.tensors
  extra = tensors | {"encoder.layers.2.alpha": np.zeros(1)}
  missing = {k: v for k, v in tensors.items() if k != "decoder.layers.1.lstm.bias_hh_l1"}
  for changed, given, error, words in (
    ({"model_type": "dac"}, tensors, ConfigError, "type 'dac', expected 'encodec'"),
    ({"codebook_size": 12}, tensors, ConfigError, "codebooks"),
    ({"target_bandwidths": [2.4]}, tensors, DataError, "such as 'quantizer.layers.1.codebook"),
    ({"use_causal_conv": False}, tensors, ConfigError, "use_causal_conv False"),
    ({"normalize": True}, tensors, ConfigError, "normalize True"),
    ({"codebook_dim": 4}, tensors, ConfigError, "codebook_dim 4 and hidden_size 8"),
    ({"upsampling_ratios": 5}, tensors, ConfigError, "'int' object is not reversible"),
    ({"codebook_size": 0}, tensors, ConfigError, "config.json has a field with an invalid value"),
    ({"target_bandwidths": []}, tensors, ConfigError, "config.json has a field with an invalid"),
    ({}, extra, DataError, "encoder.layers.2.alpha"),
    ({}, missing, DataError, "lack 'decoder.layers.1.lstm.bias_hh_l1'"),
  ):
    with pytest.raises(error, match=words) as caught:
      encodec.convert(config | changed, PublishedWeights(given))
    assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match="lacks 'num_filters'"):
    encodec.read_config({k: v for k, v in config.items() if k != "num_filters"})


def test_a_configuration_that_is_no_json_object_is_refused(tmp_path):
  shutil.copy(GOLDEN / "encodec" / "model.safetensors", tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(DataError, match=r"config\.json is not a JSON object"):
    read_published(tmp_path)
