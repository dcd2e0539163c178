"""The base class of codecs; it encodes and decodes clips of any length, and streams, in chunks."""

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

# Maps a number of clips to arrays that have the shapes of the state for these clips.
MakeState = Callable[[int], PyTree]


class ChunkedCodec(abc.ABC):
  """A `Codec` that consists of two chunked models, with the parameters on the device."""

  def __init__(self, config: Any, params: Params):
    """Moves the parameters to the device.

    Args:
      config: a configuration with a property `spec`, a `CodecSpec`.
      params: the parameters; the codes depend on all of them except `params["decoder"]`.

    Raises:
      UserError: the process was forked after JAX started.
    """
    forks.check()
    self.config = config
    # Unlike jnp.asarray, device_put compiles no program.
    self.params = jax.device_put(dict(params))

  @property
  @abc.abstractmethod
  def encoder(self) -> ChunkedModel:
    """Maps waveform to codes, `hop_length` samples per frame; clips are padded with zeros."""

  @property
  @abc.abstractmethod
  def decoder(self) -> ChunkedModel:
    """Maps codes to waveform; clips are padded with code 0."""

  @property
  def codebooks(self) -> Float[np.ndarray | jax.Array, "quantizers size dim"]:
    """One table of vectors per level; the latent of a frame is the sum of its codes' vectors."""
    return self.params["codebooks"]

  @property
  def spec(self) -> CodecSpec:
    return self.config.spec

  @property
  def token_params(self) -> Params:
    """The parameters that determine the codes: all except those of the decoder."""
    return {name: value for name, value in self.params.items() if name != "decoder"}

  def encoder_of(
    self, program: StoredProgram, sizes: Sizes, state: MakeState | None = None, **reach: int
  ) -> ChunkedModel:
    """Returns the chunked model of a program that computes codes.

    Args:
      program: maps (config, token_params, waveform, ends, state) to codes and the next state.
      sizes: the numbers of frames that a chunk may have.
      state: maps a number of clips to arrays that have the shapes of the state; the state is 0 at
        the start of a clip. None if the program has no state.
      **reach: the attributes `left`, `right` and `first` of the `ChunkedModel`.
    """
    codes = np.zeros((0, self.spec.num_quantizers), np.int32)
    hop = self.spec.hop_length
    return self._model(program, self.token_params, codes, sizes, state, unit=hop, **reach)

  def decoder_of(
    self, program: StoredProgram, sizes: Sizes, state: MakeState | None = None, **reach: int
  ) -> ChunkedModel:
    """Returns the chunked model of a program that computes samples.

    Args:
      program: maps (config, params, codes, ends, state) to samples and the next state.
      sizes: see `encoder_of`.
      state: see `encoder_of`.
      **reach: see `encoder_of`.
    """
    nothing = np.zeros(0, np.float32)
    return self._model(program, self.params, nothing, sizes, state, dtype=np.int32, **reach)

  def encode(
    self,
    waveform: Float[np.ndarray | jax.Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch frames q"]:
    """Returns the codes of `ceil(samples / hop_length)` frames; the last frame may be padded.

    Args:
      waveform: one clip per row.
      lengths: number of samples in the clip of each row; codes after its end are 0. By default,
        clips fill their rows.
    """
    waveform, model = np.asarray(waveform), self.encoder
    codes = run(model, clips_of(waveform, lengths), max(1, len(waveform)))
    return rows_of(codes, model.nothing, model.num_frames(waveform.shape[1]))

  def decode(
    self,
    codes: Int[np.ndarray | jax.Array, "batch frames q"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch samples"]:
    """Returns `frames * hop_length` samples, decoded from the first `q` levels.

    Args:
      codes: one clip per row.
      lengths: number of frames in the clip of each row; samples after its end are 0. By default,
        clips fill their rows.
    """
    codes, model = np.asarray(codes), self.decoder
    waveforms = run(model, clips_of(codes, lengths), max(1, len(codes)))
    return rows_of(waveforms, model.nothing, codes.shape[1] * self.spec.hop_length)

  def prepare_decode(self, frames: int) -> None:
    """Starts to load or compile, in the background, the programs that decode one clip.

    Args:
      frames: number of frames of the clip, which has codes of all levels.
    """
    model = self.decoder
    if model.prepare is None:
      return
    for size in {chunk.size for chunk in plan(model, frames)}:
      codes = np.zeros((1, size, self.spec.num_quantizers), np.int32)
      model.prepare(codes, np.zeros(1, np.int32), model.start_state(1))

  def encode_long(
    self, waveform: Float[np.ndarray, "samples"] | Sliced
  ) -> Int[np.ndarray, "frames q"]:
    """Returns the codes of one clip, as `encode` does for one row, in bounded memory."""
    return run(self.encoder, [waveform], 1)[0]

  def encode_clips(
    self, waveforms: Sequence[Float[np.ndarray, "_"]], batch_size: int
  ) -> list[Int[np.ndarray, "_ q"]]:
    """Returns the codes of each clip; clips of similar length form batches.

    The codes can differ from those of `encode_long` only in frames where two entries of a codebook
    are equally near up to rounding errors.
    """
    return run(self.encoder, waveforms, batch_size)

  def stream_encoder(self, batch: int = 1) -> ChunkStream:
    """Returns a new stream that maps pieces of waveform to the codes of the complete frames."""
    return ChunkStream(self.encoder, batch)

  def stream_decoder(self, batch: int = 1) -> ChunkStream:
    """Returns a new stream that maps codes to the samples that later codes cannot change."""
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
