import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.codec.soundstream import (
  Decoder,
  Encoder,
  SoundStreamConfig,
  decoder_state,
  encoder_state,
  piano_config,
  tiny_config,
)

from .conftest import CONFIG, chirp


def parameter_count(params) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


def _abstract(config: SoundStreamConfig):
  waveform = jax.ShapeDtypeStruct((2, 16_000), jnp.float32)
  encoder = jax.eval_shape(
    lambda w: Encoder(config).init(jax.random.key(0), w, encoder_state(config, 2)), waveform
  )
  latents = jax.ShapeDtypeStruct((2, 50, config.latent_dim), jnp.float32)
  decoder = jax.eval_shape(
    lambda z: Decoder(config).init(jax.random.key(0), z, decoder_state(config, 2)), latents
  )
  return encoder, decoder


def test_paper_codec_has_fifty_frames_per_second_at_six_kilobits():
  spec = SoundStreamConfig().spec
  assert (spec.hop_length, spec.frame_rate, spec.bits_per_second) == (320, 50.0, 6000.0)


def test_piano_codec_has_three_levels_of_sixteen_thousand_entries():
  spec = piano_config().spec
  assert (spec.num_quantizers, spec.codebook_size) == (3, 16_384)


def test_parameter_counts_are_the_documented_ones():
  encoder, decoder = _abstract(SoundStreamConfig())
  assert 5.0e6 < parameter_count(meta.unbox(encoder)) < 5.8e6
  assert 6.0e6 < parameter_count(meta.unbox(decoder)) < 6.8e6
  encoder, decoder = _abstract(tiny_config())
  assert parameter_count(meta.unbox(encoder)) + parameter_count(meta.unbox(decoder)) < 1.7e6


def test_every_parameter_carries_logical_axes():
  for tree in _abstract(tiny_config()):
    boxed = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))
    assert boxed and all(isinstance(leaf, meta.AxisMetadata) for leaf in boxed)


def test_a_frame_does_not_see_the_samples_after_it(codec):
  waveform = chirp(3200)[None]
  changed = waveform.copy()
  changed[:, 1600:] = 0.3
  zeros = encoder_state(CONFIG, 1)
  encode = lambda w: Encoder(CONFIG).apply({"params": codec.params["encoder"]}, w, zeros)[0]  # noqa: E731
  before, after = encode(waveform), encode(changed)
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


def test_a_sample_does_not_hear_the_frames_after_it(codec):
  latents = jax.random.normal(jax.random.key(0), (1, 10, 8))
  changed = latents.at[:, 6:].set(1.0)
  zeros = decoder_state(CONFIG, 1)
  decode = lambda z: Decoder(CONFIG).apply({"params": codec.params["decoder"]}, z, zeros)[0]  # noqa: E731
  before, after = decode(latents), decode(changed)
  np.testing.assert_array_equal(before[:, : 6 * 320], after[:, : 6 * 320])
  assert np.abs(before[:, 6 * 320 :] - after[:, 6 * 320 :]).max() > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_streamed_codes_equal_offline_codes_for_any_chunking(codec, seed):
  waveform = chirp(9000, seed)[None]
  stream = codec.stream_encoder()
  rng = np.random.default_rng(seed)
  pieces, at = [], 0
  while at < waveform.shape[1]:
    size = int(rng.choice([1, 160, 320, 641, 1600]))
    pieces.append(stream.push(waveform[:, at : at + size]))
    at += size
  pieces.append(stream.flush())
  np.testing.assert_array_equal(np.concatenate(pieces, 1), codec.encode(waveform))


def test_streamed_audio_equals_offline_audio(codec):
  codes = codec.encode(chirp(9600)[None])
  stream = codec.stream_decoder()
  edges = [0, 1, 2, 7, 7, 20, 30]
  pieces = [stream.push(codes[:, a:b]) for a, b in itertools.pairwise(edges)]
  np.testing.assert_allclose(np.concatenate(pieces, 1), codec.decode(codes), atol=1e-5)


def test_an_encoder_stream_answers_one_frame_after_its_first_sample(codec):
  stream = codec.stream_encoder()
  waveform = chirp(codec.config.latency_samples)[None]
  assert stream.push(waveform[:, :-1]).shape[1] == 0
  assert stream.push(waveform[:, -1:]).shape[1] == 1


def test_long_clip_codes_equal_whole_clip_codes(codec):
  waveform = chirp(2 * 150 * 320 + 777)
  zeros = encoder_state(CONFIG, 1)
  padded = np.pad(waveform, (0, -len(waveform) % 320))[None]
  from audiolm_jax.codec.quantizer import residual_quantize

  latents, _ = Encoder(CONFIG).apply({"params": codec.params["encoder"]}, padded, zeros)
  whole = residual_quantize(latents, codec.params["codebooks"])[0]
  np.testing.assert_array_equal(codec.encode_long(waveform), whole)


def test_batched_codes_equal_codes_one_by_one(codec):
  batch = np.stack([chirp(3200, s) for s in range(3)])
  together = codec.encode(batch)
  alone = np.concatenate([codec.encode(batch[i : i + 1]) for i in range(3)])
  np.testing.assert_array_equal(together, alone)


def test_a_partial_last_frame_is_zero_padded(codec):
  waveform = chirp(1000)[None]
  codes = codec.encode(waveform)
  assert codes.shape == (1, 4, 3)
  np.testing.assert_array_equal(codes, codec.encode(np.pad(waveform, ((0, 0), (0, 280)))))


def test_fewer_levels_decode_to_another_waveform_of_the_same_length(codec):
  codes = codec.encode(chirp(3200)[None])
  coarse, full = codec.decode(codes[..., :1]), codec.decode(codes)
  assert coarse.shape == full.shape == (1, 3200)
  assert np.abs(coarse - full).max() > 1e-4


def test_no_audio_gives_no_codes_and_no_codes_give_no_audio(codec):
  assert codec.encode(np.zeros((1, 0), np.float32)).shape == (1, 0, 3)
  assert codec.decode(np.zeros((1, 0, 3), np.int32)).shape == (1, 0)
