"""The base class of codecs of tests, which implement the methods that a test calls."""

import numpy as np

from audiolm_jax.codec.interface import Codec, CodecSpec, CodecStream


class PartialCodec(Codec):
  """A codec without parameters; methods that a subclass does not implement raise an error."""

  # The properties of `Codec` are plain attributes here.
  spec: CodecSpec  # pyright: ignore[reportIncompatibleMethodOverride]: an attribute
  token_params = {}  # pyright: ignore[reportAssignmentType]: an attribute
  codebooks = np.zeros((1, 1, 1), np.float32)  # pyright: ignore[reportAssignmentType]: an attribute

  def encode(self, waveform) -> np.ndarray:
    return np.stack([self.encode_long(row) for row in waveform])

  def encode_long(self, waveform) -> np.ndarray:
    raise NotImplementedError

  def decode(self, codes) -> np.ndarray:
    raise NotImplementedError

  def prepare_decode(self, frames: int) -> None:
    """Prepares nothing."""

  def stream_encoder(self, batch: int = 1) -> CodecStream:
    raise NotImplementedError

  def stream_decoder(self, batch: int = 1) -> CodecStream:
    raise NotImplementedError
