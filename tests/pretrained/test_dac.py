"""Our DAC against what `transformers` made of the same weights (see dac_reference.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.pretrained import dac
from audiolm_jax.pretrained.weights import PublishedWeights, read_published
from tests.pretrained.conftest import GOLDEN, latents_of
from tests.pretrained.equality import (
  compare_codes,
  compare_sound,
  relative_difference,
)

CLIPS = (0, 1)


def reference_codes(expected):
  known = {len(expected[f"waveform_{i}"]): expected[f"codes_{i}"] for i in CLIPS}
  return lambda clip: known[len(clip)]


def test_codes_equal_the_reference(dac_codec, dac_expected):
  clips = [dac_expected[f"waveform_{i}"] for i in CLIPS]
  found = compare_codes(reference_codes(dac_expected), dac_codec, clips)
  assert found.frames == 30 + 44 and found.different == 0
  assert all(len(np.unique(dac_expected[f"codes_{i}"])) > 8 for i in CLIPS)


def test_features_equal_the_reference(dac_codec, dac_expected):
  for i in CLIPS:
    clip = dac_expected[f"waveform_{i}"]
    latents = latents_of(dac_codec, np.pad(clip, (0, -len(clip) % dac_codec.spec.hop_length)))
    assert relative_difference(np.asarray(latents)[0], dac_expected[f"latents_{i}"]) < 1e-4


def test_sound_of_all_levels_and_of_the_first_equals_the_reference(dac_codec, dac_expected):
  for i in CLIPS:
    codes = dac_expected[f"codes_{i}"]
    for name, count in (("sound", 4), ("sound_of_2_levels", 2)):
      reference = dac_expected[f"{name}_{i}"]
      found = compare_sound(lambda codes, known=reference: known, dac_codec, codes[:, :count])
      assert found.relative < 1e-4
      # The reference makes 8 samples fewer; ours are silent there.
      assert found.beyond == 8
      assert not dac_codec.decode(codes[None, :, :count])[0, -8:].any()


def test_a_clip_longer_than_a_window_equals_the_whole_model(dac_codec, dac_expected):
  clip = np.tile(dac_expected["waveform_1"], 18)[: 700 * dac_codec.spec.hop_length]
  quantizer = dac_codec.params["quantizer"]
  codes, _ = jax.jit(dac.quantize)(latents_of(dac_codec, clip), quantizer)
  np.testing.assert_array_equal(dac_codec.encode_long(clip), np.asarray(codes)[0])
  latents = jax.jit(dac.dequantize)(codes, quantizer)
  decode = jax.jit(dac.DacDecoder(dac_codec.config).apply)
  sound = decode({"params": dac_codec.params["decoder"]}, latents, np.array([700]))
  np.testing.assert_allclose(dac_codec.decode(codes), sound, rtol=0, atol=1e-5)


def test_a_stream_lags_by_the_reach_and_no_more(dac_codec):
  hop, after = dac_codec.config.hop_length, dac_codec.encoder.right
  stream = dac_codec.stream_encoder()
  assert stream.push(np.zeros((1, after * hop), np.float32)).shape[1] == 0
  assert stream.push(np.zeros((1, 2 * hop), np.float32)).shape[1] == 2
  assert stream.flush().shape[1] == after
  # 0.16 and 0.2 s at the published shape.
  shape = dac.DacConfig()
  assert (shape.encoder_reach.right, shape.decoder_reach.right) == (8, 10)


def test_the_reach_is_as_far_as_a_sample_is_felt(dac_codec):
  hop, reach = dac_codec.spec.hop_length, dac_codec.encoder
  silence = np.zeros(60 * hop, np.float32)
  felt = set()
  # The first and the last sample of a frame: their effect goes farthest.
  for sample in (30 * hop, 31 * hop - 1):
    click = silence.copy()
    click[sample] = 1.0
    difference = np.subtract(*(latents_of(dac_codec, x)[0] for x in (silence, click)))
    felt |= set(np.flatnonzero(np.any(difference != 0, axis=-1)).tolist())
  assert felt == set(range(30 - reach.right, 31 + reach.left))


def test_plain_weights_and_both_kinds_of_weight_normalization_are_the_same(dac_codec):
  published = read_published(GOLDEN / "dac")
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
  waveform = np.random.default_rng(0).uniform(-1, 1, (1, 800)).astype(np.float32)
  for variant in (older, plain):
    codec = dac.convert(published.config, PublishedWeights(variant))
    np.testing.assert_array_equal(codec.encode(waveform), dac_codec.encode(waveform))


def test_the_defaults_are_the_published_16_khz_model():
  spec = dac.DacConfig().spec
  assert (spec.sample_rate, spec.hop_length, spec.frame_rate) == (16_000, 320, 50.0)
  assert (spec.num_quantizers, spec.codebook_size, spec.bits_per_second) == (12, 1024, 6000.0)
  assert dac.DacConfig().latent_dim == 1024


def test_the_sum_of_the_codebooks_entries_is_what_is_decoded(dac_codec, dac_expected):
  codes = dac_expected["codes_0"]
  entries = np.asarray(dac_codec.codebooks)
  summed = sum(entries[level][codes[:, level]] for level in range(codes.shape[1]))
  latents = dac.dequantize(jnp.asarray(codes), dac_codec.params["quantizer"])
  np.testing.assert_allclose(summed, latents, rtol=0, atol=1e-5)


def test_weights_that_do_not_fit_are_named():
  published = read_published(GOLDEN / "dac")
  config, tensors = published.config, published.weights.tensors
  extra = tensors | {"encoder.lstm.bias": np.zeros(1)}
  missing = {k: v for k, v in tensors.items() if k != "decoder.conv2.bias"}
  for changed, tensors_given, error, words in (
    ({"model_type": "encodec"}, tensors, ConfigError, "type 'encodec', expected 'dac'"),
    ({"codebook_size": 32}, tensors, ConfigError, "codebooks"),
    ({"n_codebooks": 3}, tensors, DataError, "such as 'quantizer.quantizers.3"),
    ({"decoder_hidden_size": 12}, tensors, ConfigError, "cannot be halved 3 times"),
    ({}, extra, DataError, "encoder.lstm.bias"),
    ({}, missing, DataError, "lack 'decoder.conv2.bias'"),
  ):
    with pytest.raises(error, match=words) as caught:
      dac.convert(config | changed, PublishedWeights(tensors_given))
    assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match="lacks 'n_codebooks'"):
    dac.read_config({k: v for k, v in config.items() if k != "n_codebooks"})
