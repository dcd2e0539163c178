"""The base class of codecs: encodes and decodes clips of any length and streams in chunks."""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from audiolm_jax.chunking import (
  ChunkedModel,
  ChunkStream,
  Sizes,
  Sliced,
  clips_of,
  plan,
  rows_of,
  run,
  zero_state,
)
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.core import forks
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram

# Maps a number of clips to arrays of the shapes of their state.
MakeState = Callable[[int], PyTree]


class ChunkedCodec(abc.ABC):
  """A `Codec` made of two chunked models; the parameters are on the device."""

  def __init__(self, config: Any, params: Params):
    """Moves the parameters to the device.

    Args:
      config: a configuration with a `spec`.
      params: the parameters; "decoder" are those that no code depends on.
    """
    forks.check()
    self.config = config
    # Unlike jnp.asarray, this compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  @abc.abstractmethod
  def encoder(self) -> ChunkedModel:
    """Maps waveform to codes, `hop_length` samples per frame; zeros follow the end of a clip."""

  @property
  @abc.abstractmethod
  def decoder(self) -> ChunkedModel:
    """Maps codes to waveform; zeros follow the end of a clip."""

  @property
  def codebooks(self) -> Float[np.ndarray | jax.Array, "quantizers size dim"]:
    """The vectors of the codes, one table per level; a frame is the sum of its vectors."""
    return self.params["codebooks"]

  @property
  def spec(self) -> CodecSpec:
    return self.config.spec

  @property
  def token_params(self) -> Params:
    """The parameters that determine the codes: all except the decoder's."""
    return {name: value for name, value in self.params.items() if name != "decoder"}

  def encoder_of(
    self, program: StoredProgram, sizes: Sizes, state: MakeState | None = None, **reach: int
  ) -> ChunkedModel:
    """Returns the model of a program that maps (config, token_params, waveform, ends, state).

    Args:
      program: the program.
      sizes: numbers of frames that a chunk may have.
      state: maps a number of clips to arrays of the shapes that the program carries from chunk to
        chunk; they are 0 at the start of a clip.
      reach: `left`, `right` and `first` of the model.
    """
    codes = np.zeros((0, self.spec.num_quantizers), np.int32)
    hop = self.spec.hop_length
    return self._model(program, self.token_params, codes, sizes, state, unit=hop, **reach)

  def decoder_of(
    self, program: StoredProgram, sizes: Sizes, state: MakeState | None = None, **reach: int
  ) -> ChunkedModel:
    """Returns the model of a program that maps (config, params, codes, ends, state)."""
    nothing = np.zeros(0, np.float32)
    return self._model(program, self.params, nothing, sizes, state, dtype=np.int32, **reach)

  def encode(
    self,
    waveform: Float[np.ndarray | jax.Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch frames q"]:
    """Returns the codes of `ceil(samples / hop_length)` frames; the last one may be padded.

    Args:
      waveform: one clip per row.
      lengths: samples of each row; its codes past them are 0. Whole rows by default.
    """
    waveform, model = np.asarray(waveform), self.encoder
    codes = run(model, clips_of(waveform, lengths), max(1, len(waveform)))
    return rows_of(codes, model.nothing, model.num_frames(waveform.shape[1]))

  def decode(
    self,
    codes: Int[np.ndarray | jax.Array, "batch frames q"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch samples"]:
    """Returns the `frames * hop_length` samples of the first `q` levels.

    Args:
      codes: one clip per row.
      lengths: frames of each row; its samples past them are 0. Whole rows by default.
    """
    codes, model = np.asarray(codes), self.decoder
    waveforms = run(model, clips_of(codes, lengths), max(1, len(codes)))
    return rows_of(waveforms, model.nothing, codes.shape[1] * self.spec.hop_length)

  def prepare_decode(self, frames: int) -> None:
    """Starts to load or compile in the background what `decode` of one clip needs."""
    model = self.decoder
    if model.prepare is None:
      return
    for size in {chunk.size for chunk in plan(model, frames)}:
      codes = np.zeros((1, size, self.spec.num_quantizers), np.int32)
      model.prepare(codes, np.zeros(1, np.int32), model.start_state(1))

  def encode_long(
    self, waveform: Float[np.ndarray, "samples"] | Sliced
  ) -> Int[np.ndarray, "frames q"]:
    """Returns the codes of one long clip in bounded memory; equal to `encode`."""
    return run(self.encoder, [waveform], 1)[0]

  def encode_clips(
    self, waveforms: Sequence[Float[np.ndarray, "_"]], batch_size: int
  ) -> list[Int[np.ndarray, "_ q"]]:
    """Returns the codes of each clip; clips of similar length form batches.

    They differ from those of `encode_long` only where two entries of a codebook are equally near to
    a latent up to rounding.
    """
    return run(self.encoder, waveforms, batch_size)

  def stream_encoder(self, batch: int = 1) -> ChunkStream:
    """Starts a stream that maps pieces of waveform to the codes of the completed frames."""
    return ChunkStream(self.encoder, batch)

  def stream_decoder(self, batch: int = 1) -> ChunkStream:
    """Starts a stream that maps codes to samples once later codes cannot change them."""
    return ChunkStream(self.decoder, batch)

  def _model(
    self,
    program: StoredProgram,
    params: Params,
    nothing: np.ndarray,
    sizes: Sizes,
    state: MakeState | None,
    **declared: Any,
  ) -> ChunkedModel:
    return ChunkedModel(
      functools.partial(program, self.config, params),
      nothing,
      sizes,
      state and functools.partial(zero_state, state),
      prepare=functools.partial(program.prepare, self.config, params),
      **declared,
    )
