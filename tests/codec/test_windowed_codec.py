"""Windows of a codec that hears three frames back and two ahead, and knows where a clip ends."""

import dataclasses

import numpy as np
import pytest

from audiolm_jax.codec import windowed_codec
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.codec.windowed_codec import Reach, WindowedCodec, plan_windows
from tests.pretrained.equality import assert_batched_equals_single, assert_streamed_equals_whole

HOP = 4


@dataclasses.dataclass(frozen=True)
class Config:
  spec: CodecSpec = CodecSpec(16_000, HOP, 1, 1000)


class NeighbourCodec(WindowedCodec):
  """A code sums what frames to both sides hold; before a clip and behind it there are ones."""

  def __init__(self):
    super().__init__(Config(), {"decoder": np.zeros(1)})
    self.sizes = set()

  encoder_reach = decoder_reach = Reach(3, 2)
  codebooks = np.zeros((1, 1000, 1), np.float32)

  def _sums(self, x, ends):
    self.sizes.add(x.shape[1])
    x = np.where(np.arange(x.shape[1]) < ends[:, None], x, 1)
    x = np.pad(x, ((0, 0), (3, 2)), constant_values=1)
    return sum(place * x[:, place : x.shape[1] - 5 + place] for place in range(6))

  def encode_window(self, frames, ends):
    return self._sums(np.round(5 + 5 * frames.mean(axis=-1)).astype(np.int64), ends)[..., None]

  def decode_window(self, codes, ends):
    sums = self._sums(codes[..., 0], ends)[..., None] / 1e4
    return sums * np.arange(1, HOP + 1)


def clip(samples, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def test_a_long_clip_equals_one_window_and_the_windows_are_of_few_sizes(monkeypatch):
  codec, sound = NeighbourCodec(), clip(1100 * HOP - 1)
  codes = codec.encode_long(sound)
  waveform = codec.decode(codes[None])
  assert codec.sizes == {512, 128}
  monkeypatch.setattr(windowed_codec, "_LARGEST", 2048)
  np.testing.assert_array_equal(codec.encode_long(sound), codes)
  np.testing.assert_array_equal(codec.decode(codes[None]), waveform)


def test_rows_of_unequal_lengths_equal_each_alone():
  clips = [clip(samples, i) for i, samples in enumerate((700 * HOP, 31, 513 * HOP + 1, 1))]
  assert_batched_equals_single(NeighbourCodec(), clips, atol=0)


@pytest.mark.parametrize("pieces", [[1] * 40, [3000], [2 * HOP, 3 * HOP, HOP, 900], []])
def test_streamed_equals_whole_whatever_the_pieces(pieces):
  assert_streamed_equals_whole(NeighbourCodec(), clip(613 * HOP + 2), iter(pieces), atol=1e-7)


def test_a_stream_waits_for_what_a_frame_depends_on_and_keeps_no_more():
  codec = NeighbourCodec()
  stream = codec.stream_decoder()
  codes = codec.encode(clip(100 * HOP)[None])
  assert stream.push(codes[:, :2]).shape == (1, 0)
  assert stream.push(codes[:, 2:3]).shape == (1, HOP)
  assert stream.push(codes[:, 3:]).shape == (1, 97 * HOP)
  assert stream._stream._kept.shape[1] == 3 + 2
  assert stream.flush().shape == (1, 2 * HOP)


@pytest.mark.parametrize("frames", [1, 64, 65, 512, 513, 3000])
def test_every_frame_is_kept_once_with_its_reach_inside_the_window(frames):
  reach, done = Reach(7, 9), 0
  for window in plan_windows(frames, reach, 0, frames):
    assert window.start + window.keep_from == done
    assert window.start == 0 or window.keep_from >= reach.before
    end = window.start + window.size
    assert end >= frames or window.keep_to + reach.after <= window.size
    done = window.start + window.keep_to
  assert done == frames
