import numpy as np

from audiolm_jax.codec.clips import encode_side_by_side


def test_every_clip_gets_its_own_codes_in_the_order_given_and_a_rest_goes_one_by_one():
  batches = []

  def encode(waveform, lengths):
    """Two samples a frame; the code is how many samples of the clip count in all."""
    batches.append(len(waveform))
    frames = -(-waveform.shape[1] // 2)
    return np.tile(lengths[:, None, None], (1, frames, 1))

  lengths = [9, 2, 5, 1, 7, 4, 3, 8]
  clips = [np.zeros(n, np.float32) for n in lengths]
  codes = encode_side_by_side(encode, clips, 3, hop_length=2)
  assert [len(c) for c in codes] == [5, 1, 3, 1, 4, 2, 2, 4]
  assert [c[0, 0] for c in codes] == lengths
  assert batches == [3, 3, 1, 1]
  assert encode_side_by_side(encode, [], 3, hop_length=2) == []
