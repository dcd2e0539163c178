"""Our w2v-BERT 2.0 against what `transformers` made of it (see w2v_bert_2_reference.py)."""

import jax
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.pretrained import w2v_bert_2
from audiolm_jax.pretrained.weights import PublishedWeights, read_published
from tests.pretrained.conftest import GOLDEN, layers_of
from tests.pretrained.equality import relative_difference

FOLDER = GOLDEN / "w2v_bert_2"


@pytest.fixture(scope="module")
def expected():
  with np.load(FOLDER / "expected.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def found(expected):
  """Features of every layer of both clips side by side, with rubbish behind the shorter one."""
  published = read_published(FOLDER)
  config = w2v_bert_2.read_config(published.config)
  params = w2v_bert_2.convert_encoder(config, published.weights, 3)
  clips = [expected["log_mel_0"], expected["log_mel_1"]]
  ends = [len(clip) for clip in clips]
  rows = np.random.default_rng(0).normal(size=(2, max(ends) + 5, 160)).astype(np.float32)
  for row, clip in zip(rows, clips, strict=True):
    row[: len(clip)] = clip
  return layers_of(w2v_bert_2.W2vBert2Encoder(config, 3), {"params": params}, rows, ends)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_features_of_every_layer_equal_the_reference_with_unequal_lengths(layer, found, expected):
  for i in (0, 1):
    reference = expected[f"layer_{layer}_{i}"]
    assert len(reference) == (len(expected[f"waveform_{i}"]) - 240) // 320 > 10
    assert relative_difference(found[layer][i, : len(reference)], reference) < 1e-4
    before = expected[f"layer_{layer - 1}_{i}"]
    assert relative_difference(before, reference) > 0.1


def test_the_parameters_of_a_layer_are_the_first_of_the_whole():
  config = w2v_bert_2.read_config(read_published(FOLDER).config)
  whole, some = (
    w2v_bert_2.convert_encoder(config, read_published(FOLDER).weights, layer) for layer in (3, 1)
  )
  assert set(whole) - set(some) == {"block_1", "block_2"}
  jax.tree.map(np.testing.assert_array_equal, some, {name: whole[name] for name in some})


def test_the_defaults_are_the_published_model():
  config = w2v_bert_2.W2vBert2Config()
  assert (config.hop_length, config.step_length, config.sample_rate) == (320, 560, 16_000)
  assert w2v_bert_2.read_config(PUBLISHED) == config
  params = jax.eval_shape(
    w2v_bert_2.W2vBert2Encoder(config, 1).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 1, 160), np.float32),
    jax.ShapeDtypeStruct((1,), np.int32),
  )["params"]
  block = sum(leaf.size for leaf in jax.tree.leaves(params["block_0"]))
  count = sum(leaf.size for leaf in jax.tree.leaves(params)) + 23 * block
  # 580,493,120 of `Wav2Vec2BertModel`, less the vector for masked steps.
  assert count == 580_493_120 - 1024


def test_weights_that_do_not_fit_are_named():
  published = read_published(FOLDER)
  config, tensors = published.config, published.weights.tensors
  name = "encoder.layers.2.conv_module.depthwise_conv.weight"
  missing = {k: v for k, v in tensors.items() if k != name}
  for changed, given, error, words in (
    ({"model_type": "hubert"}, tensors, ConfigError, "'hubert', expected 'wav2vec2-bert'"),
    ({"hidden_act": "gelu"}, tensors, ConfigError, "hidden_act 'gelu'"),
    ({"position_embeddings_type": "rotary"}, tensors, ConfigError, "and only 'relative_key'"),
    ({"add_adapter": True}, tensors, ConfigError, "add_adapter True"),
    ({"feature_projection_input_dim": 161}, tensors, ConfigError, "input_dim 161"),
    ({"num_attention_heads": 3}, tensors, ConfigError, "multiple of num_heads 3"),
    ({"intermediate_size": 32}, tensors, ConfigError, "feed_forward_0"),
    ({"left_max_position_embeddings": 5}, tensors, ConfigError, "relative_keys"),
    ({"num_hidden_layers": 2}, tensors, DataError, "such as 'encoder.layers.2"),
    ({}, missing, DataError, f"lack '{name}'"),
    ({}, tensors | {"lm_head.weight": np.zeros(1)}, DataError, "lm_head.weight"),
  ):
    with pytest.raises(error, match=words) as caught:
      w2v_bert_2.convert_encoder(
        w2v_bert_2.read_config(config | changed), PublishedWeights(given), 1
      )
    assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match="lacks 'layer_norm_eps'"):
    w2v_bert_2.read_config({k: v for k, v in config.items() if k != "layer_norm_eps"})


# As `Wav2Vec2BertConfig()` writes it, as far as it is read.
PUBLISHED = {
  "model_type": "wav2vec2-bert",
  "feature_projection_input_dim": 160,
  "hidden_size": 1024,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "intermediate_size": 4096,
  "hidden_act": "swish",
  "position_embeddings_type": "relative_key",
  "left_max_position_embeddings": 64,
  "right_max_position_embeddings": 8,
  "conv_depthwise_kernel_size": 31,
  "layer_norm_eps": 1e-5,
  "add_adapter": False,
}
