"""Our HuBERT against what `transformers` made of the same weights (see hubert_reference.py)."""

import jax
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.pretrained import hubert
from audiolm_jax.pretrained.weights import PublishedWeights, read_published
from tests.pretrained.conftest import GOLDEN, layers_of
from tests.pretrained.equality import relative_difference

KINDS = ("hubert", "hubert_stable")
LAYERS = (1, 2, 3)


def encoder_of(kind, layer):
  published = read_published(GOLDEN / kind)
  config = hubert.read_config(published.config)
  params = hubert.convert_encoder(config, published.weights, layer)
  return hubert.HubertEncoder(config, layer), {"params": params}


def expected_of(kind):
  with np.load(GOLDEN / kind / "expected.npz") as file:
    found = dict(file)
  return found | {f"waveform_{i}": found[f"waveform_{i}"].astype(np.float32) for i in (0, 1)}


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_every_layer_equal_the_reference_with_unequal_lengths(kind):
  expected = expected_of(kind)
  clips = [expected["waveform_0"], expected["waveform_1"]]
  ends = [len(clip) for clip in clips]
  # In one batch, with noise after the shorter clip; the reference read each clip alone.
  rows = np.random.default_rng(0).uniform(-1, 1, (2, max(ends) + 900)).astype(np.float32)
  for row, clip in zip(rows, clips, strict=True):
    row[: len(clip)] = clip
  found = layers_of(*encoder_of(kind, 3), rows, ends)
  for layer in LAYERS:
    for i in (0, 1):
      reference = expected[f"layer_{layer}_{i}"]
      assert len(reference) == (ends[i] - 400) // 320 + 1
      assert relative_difference(found[layer][i, : len(reference)], reference) < 1e-4
  assert relative_difference(expected["layer_2_1"], expected["layer_3_1"]) > 0.1


def test_the_parameters_of_a_layer_are_the_first_of_the_whole():
  whole, some = (encoder_of("hubert", layer)[1]["params"] for layer in (3, 1))
  assert set(whole) - set(some) == {"block_1", "block_2"}
  jax.tree.map(np.testing.assert_array_equal, some, {name: whole[name] for name in some})


def test_plain_weights_and_both_kinds_of_weight_normalization_are_the_same():
  published = read_published(GOLDEN / "hubert")
  tensors, layer = published.weights.tensors, "encoder.pos_conv_embed.conv"
  magnitude, direction = (f"{layer}.parametrizations.weight.original{i}" for i in (0, 1))
  rest = {k: v for k, v in tensors.items() if k not in (magnitude, direction)}
  older = rest | {f"{layer}.weight_g": tensors[magnitude], f"{layer}.weight_v": tensors[direction]}
  plain = rest | {f"{layer}.weight": PublishedWeights(tensors).weight(layer)}
  config = hubert.read_config(published.config)
  for variant in (older, plain):
    found = hubert.convert_encoder(config, PublishedWeights(variant), 1)
    wanted = hubert.convert_encoder(config, PublishedWeights(tensors), 1)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_the_defaults_are_the_published_base_model():
  config = hubert.HubertConfig()
  assert (config.hop_length, config.frame_length, config.sample_rate) == (320, 400, 16_000)
  params = jax.eval_shape(
    hubert.HubertEncoder(config, 12).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 400), np.float32),
    jax.ShapeDtypeStruct((1,), np.int32),
  )["params"]
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  # 94,371,712 of the published model, less the vector for masked frames (768) and the magnitudes of
  # the normalized weights (128); ours has biases (7 times 512) where the convolutions have none.
  assert count == 94_371_712 - 768 - 128 + 7 * 512


def test_weights_that_do_not_fit_are_named():
  published = read_published(GOLDEN / "hubert")
  config, tensors = published.config, published.weights.tensors
  missing = {k: v for k, v in tensors.items() if k != "encoder.layers.2.layer_norm.bias"}
  for changed, given, error, words in (
    ({"model_type": "wav2vec2"}, tensors, ConfigError, "type 'wav2vec2', expected 'hubert'"),
    ({"hidden_act": "relu"}, tensors, ConfigError, "hidden_act 'relu'"),
    ({"conv_pos_batch_norm": True}, tensors, ConfigError, "conv_pos_batch_norm True"),
    ({"feat_extract_norm": "batch"}, tensors, ConfigError, "feat_extract_norm 'batch'"),
    ({"num_attention_heads": 3}, tensors, ConfigError, "multiple of num_heads 3"),
    ({"conv_stride": [5, 2]}, tensors, ConfigError, "2 strides"),
    ({"intermediate_size": 32}, tensors, ConfigError, "feed_forward_in"),
    ({"num_hidden_layers": 2}, tensors, DataError, "such as 'encoder.layers.2"),
    ({}, missing, DataError, "lack 'encoder.layers.2.layer_norm.bias'"),
    ({}, tensors | {"lm_head.weight": np.zeros(1)}, DataError, "lm_head.weight"),
  ):
    with pytest.raises(error, match=words) as caught:
      hubert.convert_encoder(hubert.read_config(config | changed), PublishedWeights(given), 1)
    assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match="lacks 'layer_norm_eps'"):
    hubert.read_config({k: v for k, v in config.items() if k != "layer_norm_eps"})
