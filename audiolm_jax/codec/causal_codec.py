"""Causal codecs in blocks of frames: bounded memory, rows of unequal lengths, streams.

The state of every layer goes from block to block, so a long clip and a stream give what the clip
gives in one piece. Where a clip ends inside a block the model is told, for what stands behind a
clip is not what its own padding is: that pads the input of every layer.
"""

import abc
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.blocks import BLOCK, exact_blocks, plan_fitted_blocks
from audiolm_jax.codec.clips import RowEncoder
from audiolm_jax.codec.interface import CodecSpec


class CausalCodec(RowEncoder):
  """A `Codec` made of two functions of a block; the parameters are held on the device."""

  block_frames: int = BLOCK  # of a long clip that go through at a time, a multiple of 10

  def __init__(self, config: Any, params: Mapping[str, Any]):
    """`config` has a `spec`; `params` has a "decoder", which decides no code."""
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  def first_frames(self) -> int:
    """Frames that must be there before the first can be made, in a stream."""
    return 1

  @property
  def delay_frames(self) -> int:
    """Frames by which the samples of `decode_block` come after the codes that they belong to."""
    return 0

  @property
  @abc.abstractmethod
  def codebooks(self) -> Float[np.ndarray | jax.Array, "quantizers size dim"]:
    """The vectors that the codes stand for, one table per level; a frame is the sum of its own."""

  @abc.abstractmethod
  def encoder_state(self, batch: int) -> Any:
    """The encoder's state at a clip's start."""

  @abc.abstractmethod
  def decoder_state(self, batch: int) -> Any:
    """The decoder's state at a clip's start."""

  @abc.abstractmethod
  def encode_block(
    self,
    waveform: Float[np.ndarray, "batch samples"],
    ends: Int[np.ndarray, "batch"],
    state: Any,
  ) -> tuple[Int[jax.Array, "batch frames q"], Any]:
    """Codes of whole frames of samples; `ends` are samples from there to each clip's end."""

  @abc.abstractmethod
  def decode_block(
    self, codes: Int[np.ndarray, "batch frames q"], ends: Int[np.ndarray, "batch"], state: Any
  ) -> tuple[Float[jax.Array, "batch samples"], Any]:
    """As many frames of samples as of codes, `delay_frames` later than the codes.

    `ends` are frames from the first code to each clip's end.
    """

  @property
  def spec(self) -> CodecSpec:
    return self.config.spec

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the codes: all but the decoder's."""
    return {name: value for name, value in self.params.items() if name != "decoder"}

  def encode(
    self,
    waveform: Float[np.ndarray | jax.Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch frames q"]:
    """Codes of `ceil(samples / hop_length)` frames.

    Args:
      waveform: one clip a row.
      lengths: samples of each row that count; its codes past them are 0.
    """
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    hop = self.spec.hop_length
    frames = -(-samples // hop)
    ends = np.full(batch, samples) if lengths is None else np.asarray(lengths)
    state = self.encoder_state(batch)
    pieces = [np.zeros((batch, 0, self.spec.num_quantizers), np.int32)]
    for start, length in plan_fitted_blocks(frames, self.block_frames):
      piece = waveform[:, start * hop : (start + length) * hop]
      piece = np.pad(piece, ((0, 0), (0, length * hop - piece.shape[1])))
      codes, state = self.encode_block(piece, _from(start * hop, ends), state)
      pieces.append(np.asarray(codes))
    codes = np.concatenate(pieces, axis=1)[:, :frames]
    return np.where((np.arange(frames) < -(-ends // hop)[:, None])[..., None], codes, 0)

  def decode(
    self,
    codes: Int[np.ndarray | jax.Array, "batch frames q"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch samples"]:
    """Waveform of `frames * hop_length` samples from the first `q` levels.

    Args:
      codes: of one clip a row.
      lengths: frames of each row that count; its samples past them are 0.
    """
    codes = np.asarray(codes, np.int32)
    batch, frames, _ = codes.shape
    hop, delay = self.spec.hop_length, self.delay_frames if frames else 0
    ends = np.full(batch, frames) if lengths is None else np.asarray(lengths)
    state = self.decoder_state(batch)
    pieces = [np.zeros((batch, 0), np.float32)]
    for start, length in plan_fitted_blocks(frames + delay, self.block_frames):
      piece = codes[:, start : start + length]
      piece = np.pad(piece, ((0, 0), (0, length - piece.shape[1]), (0, 0)))
      waveform, state = self.decode_block(piece, _from(start, ends), state)
      pieces.append(np.asarray(waveform))
    waveform = np.concatenate(pieces, axis=1)[:, delay * hop : (delay + frames) * hop]
    return np.where(np.arange(frames * hop) < ends[:, None] * hop, waveform, 0)

  def stream_encoder(self, batch: int = 1) -> "CausalEncoderStream":
    """A new stream; codes come with their frame, once `first_frames` are there."""
    return CausalEncoderStream(self, batch)

  def stream_decoder(self, batch: int = 1) -> "CausalDecoderStream":
    """A new stream; the samples of a frame come `delay_frames` after its codes.

    None come before `first_frames` are there.
    """
    return CausalDecoderStream(self, batch)


class CausalEncoderStream:
  """Waveform pieces of any length in, codes of the completed frames out."""

  def __init__(self, codec: CausalCodec, batch: int):
    self._codec = codec
    self._state = codec.encoder_state(batch)
    self._started = False
    self._waiting = np.zeros((batch, 0), np.float32)

  def push(self, waveform: Float[np.ndarray, "batch samples"]) -> Int[np.ndarray, "batch frames q"]:
    """Codes of every frame that no sample still to come can change."""
    self._waiting = np.concatenate([self._waiting, np.asarray(waveform, np.float32)], axis=1)
    codec, hop, first = self._codec, self._codec.spec.hop_length, self._codec.first_frames
    pieces = [np.zeros((len(self._waiting), 0, codec.spec.num_quantizers), np.int32)]
    if not self._started and self._waiting.shape[1] >= first * hop:
      pieces.append(self._encode(first))
    if self._started:
      for _, length in exact_blocks(self._waiting.shape[1] // hop, codec.block_frames):
        pieces.append(self._encode(length))
    return np.concatenate(pieces, axis=1)

  def flush(self) -> Int[np.ndarray, "batch frames q"]:
    """Codes of the frames that are left, the last one padded as by `encode`; the clip ends here."""
    frames = -(-self._waiting.shape[1] // self._codec.spec.hop_length)
    if not frames:
      return self.push(self._waiting)
    return self._encode(1 if self._started else self._codec.first_frames)[:, :frames]

  def _encode(self, frames: int) -> np.ndarray:
    samples = frames * self._codec.spec.hop_length
    batch, ready = self._waiting.shape
    piece = np.pad(self._waiting[:, :samples], ((0, 0), (0, max(0, samples - ready))))
    self._waiting, self._started = self._waiting[:, samples:], True
    # No end is known before `flush`; where the samples fill their frames it makes no difference.
    ends = np.full(batch, ready, np.int32)
    codes, self._state = self._codec.encode_block(piece, ends, self._state)
    return np.asarray(codes)


class CausalDecoderStream:
  """Code frames in, their samples out, `delay_frames` later."""

  def __init__(self, codec: CausalCodec, batch: int):
    self._codec = codec
    self._state = codec.decoder_state(batch)
    self._batch, self._started = batch, False
    self._waiting: np.ndarray | None = None
    self._early = codec.delay_frames * codec.spec.hop_length  # samples before the clip's first

  def push(self, codes: Int[np.ndarray, "batch frames q"]) -> Float[np.ndarray, "batch samples"]:
    """The samples of every frame that no code still to come can change."""
    codes = np.asarray(codes, np.int32)
    waiting = codes if self._waiting is None else np.concatenate([self._waiting, codes], axis=1)
    self._waiting = waiting
    pieces = [np.zeros((self._batch, 0), np.float32)]
    if not self._started and waiting.shape[1] >= self._codec.first_frames:
      pieces.append(self._decode(waiting, self._codec.first_frames))
    if self._started:
      for _, length in exact_blocks(self._waiting.shape[1], self._codec.block_frames):
        pieces.append(self._decode(self._waiting, length))
    return np.concatenate(pieces, axis=1)

  def flush(self) -> Float[np.ndarray, "batch samples"]:
    """The samples that are left: of a clip shorter than `first_frames`, and the delayed ones."""
    if self._waiting is None:
      return np.zeros((self._batch, 0), np.float32)
    codec, left = self._codec, self._waiting.shape[1]
    pieces = [np.zeros((self._batch, 0), np.float32)]
    if left:
      samples = left * codec.spec.hop_length
      pieces.append(self._decode(self._waiting, codec.first_frames)[:, :samples])
    if self._started and codec.delay_frames:
      pieces.append(self._decode(self._waiting, codec.delay_frames))
    return np.concatenate(pieces, axis=1)

  def _decode(self, waiting: np.ndarray, frames: int) -> np.ndarray:
    piece = waiting[:, :frames]
    ends = np.full(self._batch, piece.shape[1], np.int32)
    piece = np.pad(piece, ((0, 0), (0, frames - piece.shape[1]), (0, 0)))
    self._waiting, self._started = waiting[:, frames:], True
    waveform, self._state = self._codec.decode_block(piece, ends, self._state)
    early = min(self._early, waveform.shape[1])
    self._early -= early
    return np.asarray(waveform)[:, early:]


def _from(start: int, ends: np.ndarray) -> np.ndarray:
  """Ends as they lie from a block's start on."""
  return (ends - start).astype(np.int32)
