import itertools

import numpy as np
import pytest

from audiolm_jax.codec.quantizer import residual_quantize
from audiolm_jax.codec.soundstream import Encoder, encoder_state

from .conftest import CONFIG, chirp


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
  waveform = chirp(2 * 250 * 320 + 777)
  zeros = encoder_state(CONFIG, 1)
  padded = np.pad(waveform, (0, -len(waveform) % 320))[None]
  latents, _ = Encoder(CONFIG).apply({"params": codec.params["encoder"]}, padded, zeros)
  whole = residual_quantize(latents, codec.params["codebooks"])[0]
  np.testing.assert_array_equal(codec.encode_long(waveform), whole)


def test_batched_codes_equal_codes_one_by_one(codec):
  batch = np.stack([chirp(3200, s) for s in range(3)])
  together = codec.encode(batch)
  alone = np.concatenate([codec.encode(batch[i : i + 1]) for i in range(3)])
  np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_codes_of_clips_side_by_side_equal_codes_one_by_one(codec, batch_size):
  lengths = [250 * 320 + 5, 1, 900, 320, 2 * 250 * 320 + 777]
  clips = [chirp(length, seed) for seed, length in enumerate(lengths)]
  together = codec.encode_clips(clips, batch_size)
  for clip, codes in zip(clips, together, strict=True):
    np.testing.assert_array_equal(codes, codec.encode_long(clip))
  assert codec.encode_clips([], batch_size) == []


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
