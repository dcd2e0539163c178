import numpy as np

from audiolm_jax.codec.quantizer import residual_quantize
from audiolm_jax.codec.soundstream import Encoder, encoder_state

from .conftest import CONFIG, chirp


def test_long_clip_codes_equal_whole_clip_codes(codec):
  waveform = chirp(2 * 250 * 320 + 777)
  zeros = encoder_state(CONFIG, 1)
  padded = np.pad(waveform, (0, -len(waveform) % 320))[None]
  latents, _ = Encoder(CONFIG).apply({"params": codec.params["encoder"]}, padded, zeros)
  whole = residual_quantize(latents, codec.params["codebooks"])[0]
  np.testing.assert_array_equal(codec.encode_long(waveform), whole)


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
