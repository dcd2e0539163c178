import types

import numpy as np

from audiolm_jax.codec.clips import encode_side_by_side


class Ramp:
  """Two samples a frame; the code is how many samples of the clip count in all."""

  spec = types.SimpleNamespace(hop_length=2)

  def __init__(self):
    self.batches = []

  def encode(self, waveform, lengths):
    self.batches.append(len(waveform))
    frames = -(-waveform.shape[1] // 2)
    return np.tile(np.asarray(lengths)[:, None, None], (1, frames, 1))

  def encode_long(self, waveform):
    return self.encode(waveform[None], [len(waveform)])[0]


def test_every_clip_gets_its_own_codes_in_the_order_given():
  codec, lengths = Ramp(), [9, 2, 5, 1, 7]
  codes = encode_side_by_side(codec, [np.zeros(n, np.float32) for n in lengths], 2)
  assert [len(c) for c in codes] == [5, 1, 3, 1, 4]
  assert [c[0, 0] for c in codes] == lengths
  assert codec.batches == [2, 2, 1]
