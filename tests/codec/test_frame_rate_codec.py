"""What is the frame-rate codec's own; what it shares with the others is in test_chunked_codec."""

import itertools

import numpy as np

from .conftest import chirp


def test_streamed_audio_comes_one_frame_later(frame_rate_codec):
  codes = frame_rate_codec.encode(chirp(9600)[None])
  stream = frame_rate_codec.stream_decoder()
  edges = [0, 1, 2, 7, 7, 20, 30]
  pieces = [stream.push(codes[:, a:b]) for a, b in itertools.pairwise(edges)]
  assert [p.shape[1] // 320 for p in pieces] == [0, 1, 5, 0, 13, 10]
  pieces.append(stream.flush())
  np.testing.assert_allclose(np.concatenate(pieces, 1), frame_rate_codec.decode(codes), atol=1e-5)
