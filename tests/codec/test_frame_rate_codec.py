"""The frame-rate codec at work: streams, batches and long clips equal single clips."""

import itertools

import numpy as np
import pytest

from audiolm_jax.codec.frame_rate_codec import FrameRateCodec

from .conftest import FRAME_RATE, chirp


@pytest.mark.parametrize("seed", [0, 1])
def test_streamed_codes_equal_offline_codes_for_any_chunking(frame_rate_codec, seed):
  waveform = chirp(9000, seed)[None]
  stream = frame_rate_codec.stream_encoder()
  rng = np.random.default_rng(seed)
  pieces, at = [], 0
  while at < waveform.shape[1]:
    size = int(rng.choice([1, 160, 320, 641, 1600]))
    pieces.append(stream.push(waveform[:, at : at + size]))
    at += size
  pieces.append(stream.flush())
  np.testing.assert_array_equal(np.concatenate(pieces, 1), frame_rate_codec.encode(waveform))


def test_streamed_audio_equals_offline_audio_one_frame_later(frame_rate_codec):
  codes = frame_rate_codec.encode(chirp(9600)[None])
  stream = frame_rate_codec.stream_decoder()
  edges = [0, 1, 2, 7, 7, 20, 30]
  pieces = [stream.push(codes[:, a:b]) for a, b in itertools.pairwise(edges)]
  assert [p.shape[1] // 320 for p in pieces] == [0, 1, 5, 0, 13, 10]
  pieces.append(stream.flush())
  np.testing.assert_allclose(np.concatenate(pieces, 1), frame_rate_codec.decode(codes), atol=1e-5)


def test_a_stream_of_a_single_frame_gives_its_samples_at_its_end(frame_rate_codec):
  codes = frame_rate_codec.encode(chirp(320)[None])
  stream = frame_rate_codec.stream_decoder()
  assert stream.push(codes).shape == (1, 0)
  np.testing.assert_allclose(stream.flush(), frame_rate_codec.decode(codes), atol=1e-5)


def test_an_encoder_stream_gives_codes_once_a_frame_is_complete(frame_rate_codec):
  stream = frame_rate_codec.stream_encoder()
  waveform = chirp(320)[None]
  assert stream.push(waveform[:, :-1]).shape[1] == 0
  assert stream.push(waveform[:, -1:]).shape[1] == 1


def test_rows_of_unequal_length_equal_single_clips(frame_rate_codec):
  lengths = np.array([30, 11, 1])
  clips = [chirp(n * 320, seed) for seed, n in enumerate(lengths)]
  codes = [frame_rate_codec.encode(clip[None])[0] for clip in clips]
  rows = np.stack([np.pad(c, ((0, 30 - len(c)), (0, 0)), constant_values=5) for c in codes])
  together = frame_rate_codec.decode(rows, lengths)
  for row, one in zip(together, codes, strict=True):
    alone = frame_rate_codec.decode(one[None])[0]
    np.testing.assert_allclose(row[: len(alone)], alone, atol=1e-5)
    assert not np.any(row[len(alone) :])


def test_codes_of_clips_side_by_side_equal_codes_one_by_one(frame_rate_codec):
  clips = [chirp(length, seed) for seed, length in enumerate([250 * 320 + 5, 1, 900, 320])]
  together = frame_rate_codec.encode_clips(clips, 2)
  for clip, codes in zip(clips, together, strict=True):
    np.testing.assert_array_equal(codes, frame_rate_codec.encode_long(clip))


def test_long_clip_equals_the_clip_in_one_piece(frame_rate_codec):
  waveform = chirp(2 * 250 * 320 + 777)
  codec, whole = frame_rate_codec, FrameRateCodec(FRAME_RATE, frame_rate_codec.params)
  whole.block_frames = 1000
  codes = codec.encode_long(waveform)
  np.testing.assert_array_equal(codes, whole.encode_long(waveform))
  np.testing.assert_allclose(codec.decode(codes[None]), whole.decode(codes[None]), atol=1e-5)


def test_nothing_is_encoded_to_nothing_and_decoded_to_nothing(frame_rate_codec):
  assert frame_rate_codec.encode(np.zeros((2, 0), np.float32)).shape == (2, 0, 3)
  assert frame_rate_codec.decode(np.zeros((2, 0, 3), np.int32)).shape == (2, 0)
  assert frame_rate_codec.stream_decoder(2).flush().shape == (2, 0)
  assert frame_rate_codec.stream_encoder(2).flush().shape == (2, 0, 3)


def test_the_decoder_decides_no_code(frame_rate_codec):
  assert set(frame_rate_codec.token_params) == {"encoder", "codebooks"}
