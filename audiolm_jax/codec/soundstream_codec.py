"""SoundStream at work: trained parameters behind the `Codec` protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.blocks import exact_blocks, initial_state, plan_blocks
from audiolm_jax.codec.clips import encode_side_by_side
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.codec.quantizer import dequantize, residual_quantize
from audiolm_jax.codec.soundstream import (
  Decoder,
  Encoder,
  SoundStreamConfig,
  State,
  decoder_state,
  encoder_state,
)
from audiolm_jax.io.stored_program import StoredProgram


class SoundStreamCodec:
  """Encodes and decodes in blocks of frames, carrying the state between blocks.

  Memory is bounded, and a long file gives the codes that it would give in one piece.
  Source: SoundStream, sections III-A to III-C.
  """

  def __init__(self, config: SoundStreamConfig, params: Mapping[str, Any]):
    """`params` is {"encoder", "decoder", "codebooks" [quantizers, size, latent]}."""
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  def spec(self) -> CodecSpec:
    return self.config.spec

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the codes: all but the decoder's."""
    return {name: value for name, value in self.params.items() if name != "decoder"}

  @property
  def codebooks(self) -> Float[jax.Array, "quantizers size latent"]:
    """The vectors that the codes stand for; a frame is the sum of its own."""
    return self.params["codebooks"]

  def encode(
    self, waveform: Float[np.ndarray | jax.Array, "batch samples"]
  ) -> Int[np.ndarray, "batch frames q"]:
    """Codes of `ceil(samples / hop_length)` frames, the last one zero padded."""
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    hop = self.spec.hop_length
    frames = -(-samples // hop)
    state = initial_state(encoder_state, self.config, batch)
    pieces = []
    for start, length in plan_blocks(frames):
      piece = waveform[:, start * hop : (start + length) * hop]
      piece = np.pad(piece, ((0, 0), (0, length * hop - piece.shape[1])))
      codes, state = encode_block(self.config, self.params, piece, state)
      pieces.append(np.asarray(codes))
    if not pieces:
      return np.zeros((batch, 0, self.spec.num_quantizers), np.int32)
    return np.concatenate(pieces, axis=1)[:, :frames]

  def decode(
    self, codes: Int[np.ndarray | jax.Array, "batch frames q"]
  ) -> Float[np.ndarray, "batch samples"]:
    """Waveform of `frames * hop_length` samples from the first `q` levels."""
    codes = np.asarray(codes, np.int32)
    batch, frames, _ = codes.shape
    state = initial_state(decoder_state, self.config, batch)
    pieces = []
    for start, length in plan_blocks(frames):
      piece = codes[:, start : start + length]
      piece = np.pad(piece, ((0, 0), (0, length - piece.shape[1]), (0, 0)))
      waveform, state = decode_block(self.config, self.params, piece, state)
      pieces.append(np.asarray(waveform))
    if not pieces:
      return np.zeros((batch, 0), np.float32)
    return np.concatenate(pieces, axis=1)[:, : frames * self.spec.hop_length]

  def prepare_decode(self, frames: int) -> None:
    """Begins to load or compile in the background what `decode` of one clip needs."""
    state = initial_state(decoder_state, self.config, 1)
    for length in {length for _, length in plan_blocks(frames)}:
      codes = np.zeros((1, length, self.spec.num_quantizers), np.int32)
      decode_block.prepare(self.config, self.params, codes, state)

  def encode_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "frames q"]:
    """Codes of one long clip in bounded memory; equal to `encode`."""
    return self.encode(np.asarray(waveform)[None])[0]

  def encode_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "frames q"]]:
    """Codes of each clip, as of `encode_long`, but clips of like length go side by side."""
    # The codec is causal: the zeros after a clip change nothing in it.
    return encode_side_by_side(
      lambda rows, _: self.encode(rows), waveforms, batch_size, self.spec.hop_length
    )

  def stream_encoder(self, batch: int = 1) -> "SoundStreamEncoderStream":
    """A new stream; latency is one frame."""
    return SoundStreamEncoderStream(self, batch)

  def stream_decoder(self, batch: int = 1) -> "SoundStreamDecoderStream":
    """A new stream; a frame's samples come with the frame."""
    return SoundStreamDecoderStream(self, batch)


class SoundStreamEncoderStream:
  """Waveform pieces of any length in, codes of the completed frames out."""

  def __init__(self, codec: SoundStreamCodec, batch: int):
    self._codec = codec
    self._state = initial_state(encoder_state, codec.config, batch)
    self._waiting = np.zeros((batch, 0), np.float32)

  def push(self, waveform: Float[np.ndarray, "batch samples"]) -> Int[np.ndarray, "batch frames q"]:
    """Codes of every frame that is complete after these samples."""
    spec = self._codec.spec
    heard = np.concatenate([self._waiting, np.asarray(waveform, np.float32)], axis=1)
    ready = heard.shape[1] // spec.hop_length * spec.hop_length
    self._waiting = heard[:, ready:]
    if not ready:
      return np.zeros((heard.shape[0], 0, spec.num_quantizers), np.int32)
    codes, self._state = encode_block(
      self._codec.config, self._codec.params, heard[:, :ready], self._state
    )
    return np.asarray(codes)

  def flush(self) -> Int[np.ndarray, "batch frames q"]:
    """Codes of the last, partial frame, zero padded; nothing when the samples ended on a frame."""
    missing = -self._waiting.shape[1] % self._codec.spec.hop_length
    return self.push(np.zeros((self._waiting.shape[0], missing), np.float32))


class SoundStreamDecoderStream:
  """Code frames in, their samples out.

  What is pushed goes through in long blocks and in pieces of powers of two frames, so that few
  programs are compiled whatever its lengths.
  """

  def __init__(self, codec: SoundStreamCodec, batch: int):
    self._codec = codec
    self._state = initial_state(decoder_state, codec.config, batch)
    self._batch = batch

  def push(self, codes: Int[np.ndarray, "batch frames q"]) -> Float[np.ndarray, "batch samples"]:
    """The `frames * hop_length` samples of these frames."""
    codes = np.asarray(codes, np.int32)
    batch, frames, _ = codes.shape
    pieces = [np.zeros((batch, 0), np.float32)]
    for start, length in exact_blocks(frames):
      waveform, self._state = decode_block(
        self._codec.config, self._codec.params, codes[:, start : start + length], self._state
      )
      pieces.append(np.asarray(waveform))
    return np.concatenate(pieces, axis=1)

  def flush(self) -> Float[np.ndarray, "batch samples"]:
    """Nothing: a frame's samples came with it."""
    return np.zeros((self._batch, 0), np.float32)


def _encode_block(
  config: SoundStreamConfig, params: Mapping[str, Any], waveform: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Codes of whole frames of samples, and the encoder's state behind them."""
  latents, state = Encoder(config).apply({"params": params["encoder"]}, waveform, state)
  return residual_quantize(latents, params["codebooks"]), state


def _decode_block(
  config: SoundStreamConfig, params: Mapping[str, Any], codes: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Samples of frames of codes, and the decoder's state behind them."""
  latents = dequantize(codes, params["codebooks"])
  return Decoder(config).apply({"params": params["decoder"]}, latents, state)


encode_block = StoredProgram(_encode_block, static_argnums=(0,))
decode_block = StoredProgram(_decode_block, static_argnums=(0,))
