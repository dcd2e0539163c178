"""What residual codecs add; what they share with other codecs is in test_chunked_codec."""

import itertools

import jax.numpy as jnp
import numpy as np

from audiolm_jax.codec.quantizer import residual_quantize
from audiolm_jax.codec.residual_codec import decode_chunk, encode_chunk

from .conftest import CONFIG, chirp


def test_long_clip_codes_equal_whole_clip_codes(codec):
  waveform = chirp(2 * 250 * 320 + 777)
  padded = np.pad(waveform, (0, -len(waveform) % 320))[None]
  latents = CONFIG.encode_latents(codec.params["encoder"], jnp.asarray(padded))
  whole = residual_quantize(latents, codec.params["codebooks"])[0]
  np.testing.assert_array_equal(codec.encode_long(waveform), whole)


def test_clips_of_any_length_compile_two_sizes(codec):
  lengths = [1, 320 * 30, 320 * 120 - 5, 320 * 249, 320 * 250, 320 * 601 + 7]
  for program in (encode_chunk, decode_chunk):
    program.clear_cache()
  for samples in lengths:
    codec.decode(codec.encode_long(chirp(samples))[None])
  assert encode_chunk._cache_size() == decode_chunk._cache_size() == 2


def test_rows_of_unequal_lengths_compile_two_sizes_for_whole_batches_and_for_single_clips(codec):
  lengths = [320 * frames - 1 for frames in (40, 310, 1, 260, 100, 299, 17)]
  clips = [chirp(samples, seed) for seed, samples in enumerate(lengths)]
  for program in (encode_chunk, decode_chunk):
    program.clear_cache()
  for count in (7, 6, 5):
    codec.encode_clips(clips[:count], 2)
  assert encode_chunk._cache_size() <= 4
  rows = np.zeros((3, 310, 3), np.int32)
  for frames in ([310, 2, 70], [1, 90, 280], [250, 300, 60], [5, 40, 30]):
    codec.decode(rows[:, : max(frames)], np.array(frames))
  assert decode_chunk._cache_size() <= 2


def test_a_beam_search_encodes_more_accurately_in_every_way_of_encoding(codec):
  waveform = chirp(16_000 + 100)
  wide = codec.searching(6)
  assert wide.config.search_width == 6 and wide.searching(1).config == codec.config
  codes = wide.encode_long(waveform)
  target = np.concatenate([np.asarray(x) for x in _latents(codec, waveform)])

  def error(found):
    vectors = sum(codec.params["codebooks"][i][found[:, i]] for i in range(found.shape[1]))
    return np.linalg.norm(np.asarray(vectors) - target, axis=-1).mean()

  assert error(codes) < error(codec.encode_long(waveform))
  np.testing.assert_array_equal(wide.encode(waveform[None])[0], codes)
  stream = wide.stream_encoder()
  pieces = [stream.push(waveform[None, a:b]) for a, b in ((0, 5_000), (5_000, 16_100))]
  pieces.append(stream.flush())
  np.testing.assert_array_equal(np.concatenate(pieces, 1)[0], codes)


def _latents(codec, waveform):
  padded = np.pad(waveform, (0, -len(waveform) % 320))[None]
  return CONFIG.encode_latents(codec.params["encoder"], jnp.asarray(padded))


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


def test_streamed_audio_comes_one_frame_later_with_a_frame_of_lookahead(frame_rate_codec):
  codes = frame_rate_codec.encode(chirp(9600)[None])
  stream = frame_rate_codec.stream_decoder()
  edges = [0, 1, 2, 7, 7, 20, 30]
  pieces = [stream.push(codes[:, a:b]) for a, b in itertools.pairwise(edges)]
  assert [p.shape[1] // 320 for p in pieces] == [0, 1, 5, 0, 13, 10]
  pieces.append(stream.flush())
  np.testing.assert_allclose(np.concatenate(pieces, 1), frame_rate_codec.decode(codes), atol=1e-5)
