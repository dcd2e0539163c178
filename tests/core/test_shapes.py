"""The shapes that configurations compute are those of the networks' parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.core import shapes
from audiolm_jax.detection.classifier import Classifier, ClassifierConfig
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.transformer import Transformer
from audiolm_jax.pretrained import dac, encodec_layers, hubert, lyra_layers, mimi_layers, w2v_bert_2
from audiolm_jax.pretrained.mimi_transformer import MimiTransformerConfig
from audiolm_jax.semantic.conformer import ConformerConfig, ConformerEncoder
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.semantic.unit_encoder import UnitEncoder, UnitEncoderConfig


def array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def initialized(init, *inputs):
  """The shapes of the parameters of a network, from its initialisation."""
  variables = jax.eval_shape(lambda *x: init(jax.random.key(0), *x), *inputs)
  return shapes.flat(shapes.of_arrays(meta.unbox(variables)["params"]))


def residual_codec(config):
  def init(waveform):
    return config.init_params(jax.random.split(jax.random.key(0)), waveform)

  params = meta.unbox(jax.eval_shape(init, array(1, 2 * config.hop_length)))
  return shapes.flat(shapes.of_arrays(params))


def other_codec(encoder, decoder, config, *latents):
  """Encoder and decoder of a codec whose networks read the ends of rows and perhaps a state."""
  ends = array(1, dtype=jnp.int32)
  inputs = [[array(1, 2 * config.hop_length), ends], [array(1, 2, *latents), ends]]
  if encoder is mimi_layers.MimiEncoder:
    inputs[0].append(jax.eval_shape(lambda: config.encoder_state(1)))
    inputs[1][1] = jax.eval_shape(lambda: config.decoder_state(1))
  networks = (encoder(config), decoder(config))
  return shapes.flat(
    {
      half: initialized(network.init, *given)
      for half, network, given in zip(("encoder", "decoder"), networks, inputs, strict=True)
    }
  )


def assert_same(config, found, *arguments, beside=()):
  computed = shapes.flat(config.parameter_shapes(*arguments))
  assert {k: v for k, v in computed.items() if not k.startswith(tuple(beside))} == found


@pytest.mark.parametrize(
  "config",
  [
    SoundStreamConfig(encoder_channels=2, decoder_channels=3, latent_dim=8, strides=(2, 3)),
    FrameRateConfig(
      encoder_dim=8,
      encoder_layers=1,
      encoder_short_dim=4,
      decoder_dim=12,
      decoder_layers=2,
      decoder_short_dim=6,
      decoder_short_layers=1,
    ),
    encodec_layers.EncodecConfig(channels=4, strides=(2, 3), latent_dim=8),
    lyra_layers.LyraConfig(channels=4, strides=(2, 3, 2), latent_dim=8),
  ],
  ids=lambda config: type(config).__name__,
)
def test_a_residual_codec_has_the_shapes_of_its_configuration(config):
  assert_same(config, residual_codec(config), beside=("codebooks",))
  books = (config.num_quantizers, config.codebook_size, config.latent_dim)
  assert config.parameter_shapes()["codebooks"] == books


def test_other_codecs_have_the_shapes_of_their_configurations():
  d = dac.DacConfig(encoder_channels=4, decoder_channels=16, strides=(2, 3), num_quantizers=2)
  found = other_codec(dac.DacEncoder, dac.DacDecoder, d, d.latent_dim)
  assert_same(d, found, beside=("quantizer",))
  m = mimi_layers.MimiConfig(
    channels=4,
    strides=(2, 3),
    transformer=MimiTransformerConfig(8, 2, 2, 16, window=4),
    codebook_dim=5,
  )
  found = other_codec(mimi_layers.MimiEncoder, mimi_layers.MimiDecoder, m, 2, m.codebook_dim)
  assert_same(m, found, beside=("codebooks",))


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scanned"])
def test_a_conformer_has_the_shapes_of_its_configuration(scan):
  config = ConformerConfig(
    features=LogMelConfig(num_mels=8),
    stacks=(2, 0, 1),
    dim=8,
    num_heads=2,
    mlp_dim=12,
    kernel_size=3,
    subsample_channels=4,
    left_context=3,
    scan_layers=scan,
  )
  encoder = ConformerEncoder(config)
  assert_same(config, initialized(encoder.init, array(1, 8, 8), array(1, 2, dtype=bool)))


def test_a_unit_encoder_has_the_shapes_of_its_configuration():
  config = UnitEncoderConfig(LogMelConfig(num_mels=8), dim=6, dilations=(1, 2), kernel_size=3)
  encoder = UnitEncoder(config)
  assert_same(config, initialized(encoder.init, array(1, 4, 8), array(1, 4, dtype=bool)))


def test_published_encoders_have_the_shapes_of_their_configurations():
  small = {"dim": 8, "num_layers": 3, "num_heads": 2, "feed_forward_dim": 12}
  ends = array(1, dtype=jnp.int32)
  for front, block in (("group", "post"), ("layer", "pre")):
    h = hubert.HubertConfig(
      channels=(3, 5),
      kernels=(4, 3),
      strides=(2, 2),
      front_norm=hubert.FrontNorm(front),
      block_norm=hubert.BlockNorm(block),
      position_taps=6,
      position_groups=2,
      **small,
    )
    assert_same(h, initialized(hubert.HubertEncoder(h, 2).init, array(1, 40), ends), 2)
  w = w2v_bert_2.W2vBert2Config(num_mels=4, kernel_size=3, left_positions=2, **small)
  assert_same(w, initialized(w2v_bert_2.W2vBert2Encoder(w, 2).init, array(1, 6, 8), ends), 2)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"positions": "rotary", "feed_forward": "gated_gelu", "num_kv_heads": 1, "head_dim": 6},
    {"num_frame_embeddings": 9, "feed_forward": "gated_silu"},
  ],
  ids=["t5", "rotary", "frames"],
)
def test_a_transformer_has_the_shapes_of_its_configuration(changes):
  config = TransformerConfig(num_layers=2, dim=8, num_heads=2, mlp_dim=12)
  config = dataclasses.replace(config, **changes)
  tokens = array(1, 4, dtype=jnp.int32)
  assert_same(config, initialized(Transformer(config, 21).init, tokens, tokens), 21)


def test_a_classifier_has_the_shapes_of_its_configuration():
  config = ClassifierConfig(channels=(4, 8, 8), groups=2, num_classes=3)
  assert_same(config, initialized(Classifier(config).init, array(1, 4000)))
