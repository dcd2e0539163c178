"""What holds for every codec: rows, long clips and streams equal single clips in one chunk."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest

from audiolm_jax.chunking import Sizes, run
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.quantizer import residual_quantize
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.io.stored_program import StoredProgram
from tests.codec.conftest import chirp
from tests.pretrained.conftest import (
  miniature_dac,
  miniature_encodec,
  miniature_lyra,
  miniature_mimi,
)
from tests.pretrained.equality import assert_batched_equals_single, assert_streamed_equals_whole


class Case(NamedTuple):
  """A codec; the frames after which its first codes and its first samples come."""

  codec: ChunkedCodec
  first_codes: int
  first_samples: int


@pytest.fixture(
  scope="module",
  params=["soundstream", "frame_rate", "single_rate", "dac", "encodec", "mimi", "lyra"],
)
def case(request) -> Case:
  if request.param == "soundstream":
    return Case(request.getfixturevalue("codec"), 1, 1)
  if request.param == "frame_rate":
    return Case(request.getfixturevalue("frame_rate_codec"), 1, 2)
  if request.param == "single_rate":
    return Case(request.getfixturevalue("single_rate_codec"), 1, 4)
  if request.param == "dac":
    codec = miniature_dac()
    return Case(codec, codec.config.encoder_reach.right + 1, codec.config.decoder_reach.right + 1)
  if request.param == "encodec":
    return Case(miniature_encodec(), 7, 7)
  return Case(miniature_mimi() if request.param == "mimi" else miniature_lyra(), 1, 1)


def clip_of(codec, frames, seed=0):
  """Returns a sound that is one sample shorter than `frames` frames, at least one sample long."""
  samples = max(1, frames * codec.spec.hop_length - 1)
  return chirp(samples, seed) + np.random.default_rng(seed).uniform(-0.3, 0.3, samples).astype("f")


@pytest.mark.parametrize("frames", [9, 3, 1])
def test_streamed_equals_whole_whatever_the_pieces(case, frames):
  # Few different numbers of frames at a time, for each is compiled.
  hop = case.codec.spec.hop_length
  samples = [1, hop, hop - 1, 2 * hop + 3, 0, 2 * hop]
  assert_streamed_equals_whole(
    case.codec, clip_of(case.codec, frames), samples, [1, 0, 2, 1, 2, 2], atol=1e-5
  )


def test_a_stream_answers_as_soon_as_a_frame_cannot_change(case):
  codec, hop = case.codec, case.codec.spec.hop_length
  encoder, waveform = codec.stream_encoder(), clip_of(codec, case.first_codes + 1)[None]
  ready = case.first_codes * hop
  assert encoder.push(waveform[:, : ready - 1]).shape[1] == 0
  assert encoder.push(waveform[:, ready - 1 : ready]).shape[1] > 0
  decoder = codec.stream_decoder()
  codes = np.ones((1, case.first_samples, codec.spec.num_quantizers), np.int32)
  assert decoder.push(codes[:, 1:]).shape[1] == 0
  assert decoder.push(codes[:, :1]).shape[1] > 0


def test_rows_and_clips_of_unequal_lengths_equal_single_clips(case):
  clips = [clip_of(case.codec, frames, seed) for seed, frames in enumerate((9, 4, 1))]
  assert_batched_equals_single(case.codec, clips, atol=1e-5)


def test_many_chunks_equal_one(case):
  encoder, decoder = case.codec.encoder, case.codec.decoder
  size = max(2, encoder.first, decoder.right + 1) if encoder.carried else 64
  clip, few = clip_of(case.codec, 9 if encoder.carried else 150), Sizes.in_steps(size, size)
  codes = case.codec.encode_long(clip)
  assert len(np.unique(codes)) > 5
  (found,) = run(dataclasses.replace(encoder, sizes=few), [clip], 1)
  np.testing.assert_array_equal(found, codes)
  (found,) = run(dataclasses.replace(decoder, sizes=few), [codes], 1)
  np.testing.assert_allclose(found, case.codec.decode(codes[None])[0], atol=1e-5)


def test_codes_are_those_of_the_latents(case):
  codec, clip = case.codec, clip_of(case.codec, 9)
  if not isinstance(codec, ResidualCodec):
    assert not hasattr(codec, "latent_encoder")
    return
  (latents,) = run(codec.latent_encoder, [clip], 1)
  codes = jax.jit(residual_quantize)(latents, codec.codebooks)
  np.testing.assert_array_equal(codes, codec.encode_long(clip))


def test_nothing_is_encoded_to_nothing_and_decoded_to_nothing(case):
  codec, levels = case.codec, case.codec.spec.num_quantizers
  assert codec.encode(np.zeros((2, 0), np.float32)).shape == (2, 0, levels)
  assert codec.encode(np.zeros((0, 9), np.float32)).shape[::2] == (0, levels)
  assert codec.decode(np.zeros((2, 0, levels), np.int32)).shape == (2, 0)
  assert codec.encode_clips([], 2) == []
  assert codec.stream_decoder(2).flush().shape == (2, 0)
  assert codec.stream_encoder(2).flush().shape == (2, 0, levels)


def test_the_decoder_decides_no_code(case):
  assert set(case.codec.token_params) == set(case.codec.params) - {"decoder"}


def test_what_decode_runs_is_what_is_prepared(case, monkeypatch):
  prepared, called = set(), set()

  def noting(seen, method):
    def run(program, *args):
      seen.add((program, program._key(args)))
      return method(program, *args)

    return run

  monkeypatch.setattr(StoredProgram, "prepare", noting(prepared, StoredProgram.prepare))
  monkeypatch.setattr(StoredProgram, "__call__", noting(called, StoredProgram.__call__))
  case.codec.prepare_decode(9)
  case.codec.decode(np.ones((1, 9, case.codec.spec.num_quantizers), np.int32))
  assert called == prepared != set()
