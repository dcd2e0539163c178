"""The protocols of codecs; tokenization, sampling and evaluation accept every `Codec`."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from audiolm_jax.chunking import Sliced
from audiolm_jax.core.modules import Params


@dataclasses.dataclass(frozen=True)
class CodecSpec:
  """The rates and sizes of the tokens of a codec.

  Attributes:
    sample_rate: Hz.
    hop_length: samples per frame.
    num_quantizers: residual levels per frame, coarse to fine.
    codebook_size: entries per level.
  """

  sample_rate: int = 16_000
  hop_length: int = 320
  num_quantizers: int = 12
  codebook_size: int = 1024

  @property
  def frame_rate(self) -> float:
    """Frames per second."""
    return self.sample_rate / self.hop_length

  @property
  def bits_per_second(self) -> float:
    """Bit rate of all levels in bit/s, without entropy coding."""
    return self.frame_rate * self.num_quantizers * float(np.log2(self.codebook_size))


@runtime_checkable
class CodecStream(Protocol):
  """Maps pieces of waveform to codes, or codes to pieces of waveform, with a state."""

  def push(self, inputs: Shaped[np.ndarray, "batch _ ..."], /) -> Shaped[np.ndarray, "batch _ ..."]:
    """Returns the results of the frames that have become final: later inputs cannot change them."""
    ...

  def flush(self) -> Shaped[np.ndarray, "batch _ ..."]:
    """Ends the clip and returns the remaining results; pads the last frame like `encode`."""
    ...


@runtime_checkable
class Codec(Protocol):
  """A codec with residual levels; a codec that is not causal streams with a delay."""

  @property
  def spec(self) -> CodecSpec: ...

  @property
  def token_params(self) -> Params:
    """The parameters that determine the codes of a waveform, for the hash of its tokens."""
    ...

  @property
  def codebooks(self) -> Float[np.ndarray | jax.Array, "quantizers size dim"]:
    """One table of vectors per level; the latent of a frame is the sum of its codes' vectors."""
    ...

  def encode(
    self, waveform: Float[np.ndarray | jax.Array, "batch samples"]
  ) -> Int[np.ndarray, "batch frames q"]:
    """Returns the codes of `ceil(samples / hop_length)` frames; the last frame may be padded."""
    ...

  def decode(
    self, codes: Int[np.ndarray | jax.Array, "batch frames q"]
  ) -> Float[np.ndarray, "batch samples"]:
    """Returns `frames * hop_length` samples, decoded from the first `q` levels."""
    ...

  def prepare_decode(self, frames: int) -> None:
    """May start to load or compile, in the background, the programs that `decode` needs."""
    ...

  def encode_long(
    self, waveform: Float[np.ndarray, "samples"] | Sliced
  ) -> Int[np.ndarray, "frames q"]:
    """Returns the codes of one clip, as `encode` does for one row, in bounded memory."""
    ...

  def stream_encoder(self, batch: int = 1) -> CodecStream: ...

  def stream_decoder(self, batch: int = 1) -> CodecStream: ...


@runtime_checkable
class EncodesClips(Protocol):
  """A codec that can encode clips of unequal lengths in batches instead of one by one."""

  def encode_clips(
    self, waveforms: Sequence[Float[np.ndarray, "_"]], batch_size: int
  ) -> list[Int[np.ndarray, "_ q"]]:
    """Returns the codes of each clip; encodes up to `batch_size` clips at a time."""
    ...
