"""A codec that needs no training and keeps its codes, and codes with a mark."""

import numpy as np

from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig, is_green
from tests.partial_codec import PartialCodec

RATE, HOP, SIZE = 16_000, 320, 24
TONES = 40 + 3 * np.arange(2 * SIZE)  # bins of a spectrum of two frames


class ToneCodec(PartialCodec):
  """Codes a frame by the loudest of 24 low and of 24 high tones; needs no training."""

  spec = CodecSpec(RATE, HOP, num_quantizers=2, codebook_size=SIZE)

  def encode(self, waveform):
    whole = np.pad(waveform, ((0, 0), (0, -waveform.shape[1] % HOP)))
    frames = whole.reshape(len(waveform), -1, HOP)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(HOP), 4 * HOP))[..., TONES]
    return np.stack([spectrum[..., :SIZE].argmax(-1), spectrum[..., SIZE:].argmax(-1)], axis=-1)

  def encode_long(self, waveform):
    return self.encode(waveform[None])[0]

  def decode(self, codes):
    time = np.arange(codes.shape[1] * HOP).reshape(-1, HOP)
    tones = TONES[codes + SIZE * np.arange(codes.shape[2])][..., None] / (4 * HOP)
    waveform = np.sin(2 * np.pi * tones * time[:, None]).sum(axis=2)
    return 0.2 * waveform.reshape(len(codes), -1)

  def stream_encoder(self, batch=1):
    del batch
    return _Stream()


CODEC = ToneCodec()


class _Stream:
  def push(self, inputs):
    return ToneCodec().encode(inputs)

  def flush(self):
    return np.zeros((1, 0, 2), np.int64)


MARK = Watermark(WatermarkConfig(2, SIZE, "ab" * 16), np.tile(np.arange(SIZE), (2, 1)))


def marked_codes(
  frames: int, start: int, end: int, seed: int = 0, payload: bytes = b""
) -> np.ndarray:
  """Random codes; between two frames each is the last green one of three, if there is one."""
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, SIZE, (frames, 2))
  for frame in range(start, end):
    for candidate in rng.integers(0, SIZE, (3, 2)):
      trial = np.stack([codes[frame - 1], candidate])
      green = is_green(MARK.key[None], MARK.entries(trial).ravel(), payload)[0]
      codes[frame] = np.where(green, candidate, codes[frame])
  return codes


def sound_of(codes: np.ndarray) -> np.ndarray:
  """The decoded codes."""
  return ToneCodec().decode(codes[None])[0].astype(np.float32)
