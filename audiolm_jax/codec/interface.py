"""What every codec of this project offers, so that the rest need not know which one it is."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped


@dataclasses.dataclass(frozen=True)
class CodecSpec:
  """The numbers that describe a codec's tokens.

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
    """Bit rate at all levels, without entropy coding."""
    return self.frame_rate * self.num_quantizers * float(np.log2(self.codebook_size))


@runtime_checkable
class Autoencoder(Protocol):
  """The shape of a codec as its training uses it: a frozen dataclass that builds what it needs."""

  sample_rate: int
  hop_length: Any  # int; a property where it follows from other fields
  latent_dim: int
  num_quantizers: int
  codebook_size: int

  def init_params(
    self, keys: Key[Array, "2"], waveform: Float[Array, "batch samples"]
  ) -> dict[str, Any]:
    """Fresh parameters {"encoder", "decoder"}, a key for each; they carry their logical axes."""
    ...

  def encode_latents(
    self, params: Mapping[str, Any], waveform: Float[Array, "batch samples"]
  ) -> Float[Array, "batch frames latent"]:
    """Latents of whole clips of whole frames; `params` are the encoder's."""
    ...

  def decode_latents(
    self, params: Mapping[str, Any], latents: Float[Array, "batch frames latent"]
  ) -> Float[Array, "batch samples"]:
    """Waveforms of whole clips; `params` are the decoder's."""
    ...

  def encoder_flops(self, samples: int) -> float:
    """Floating-point operations of the encoder for a clip of whole frames."""
    ...

  def decoder_flops(self, samples: int) -> float:
    """The same of the decoder."""
    ...


@runtime_checkable
class CodecStream(Protocol):
  """Pieces of a waveform in and codes out, or codes in and waveform out, with state in between."""

  def push(self, inputs: Shaped[np.ndarray, "batch _ ..."], /) -> Shaped[np.ndarray, "batch _ ..."]:
    """The results of every frame that no input still to come can change."""
    ...

  def flush(self) -> Shaped[np.ndarray, "batch _ ..."]:
    """The results that are left, the last frame padded as by `encode`; the clip ends here."""
    ...


@runtime_checkable
class Codec(Protocol):
  """A codec with residual levels; one that is not causal streams with a delay."""

  @property
  def spec(self) -> CodecSpec: ...

  @property
  def token_params(self) -> Mapping[str, Any]:
    """The parameters that decide the codes of a waveform, for the hash of its tokens."""
    ...

  @property
  def codebooks(self) -> Float[np.ndarray | jax.Array, "quantizers size dim"]:
    """The vectors that the codes stand for, one table per level; a frame is the sum of its own."""
    ...

  def encode(
    self, waveform: Float[np.ndarray | jax.Array, "batch samples"]
  ) -> Int[np.ndarray, "batch frames q"]:
    """Codes of `ceil(samples / hop_length)` frames, the last one padded as the codec knows it."""
    ...

  def decode(
    self, codes: Int[np.ndarray | jax.Array, "batch frames q"]
  ) -> Float[np.ndarray, "batch samples"]:
    """Waveform of `frames * hop_length` samples from the first `q` levels."""
    ...

  def prepare_decode(self, frames: int) -> None:
    """May begin to load or compile in the background what `decode` of a clip needs."""
    ...

  def encode_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "frames q"]:
    """Codes of one long clip in bounded memory; equal to `encode`."""
    ...

  def stream_encoder(self, batch: int = 1) -> CodecStream: ...

  def stream_decoder(self, batch: int = 1) -> CodecStream: ...
