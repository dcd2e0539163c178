"""The base of codecs: clips of any length, rows of unequal lengths and streams, in chunks."""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.chunking import (
  ChunkedModel,
  Sizes,
  Stream,
  clips_of,
  plan,
  rows_of,
  run,
  zero_state,
)
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.io.stored_program import StoredProgram


class ChunkedCodec(abc.ABC):
  """A `Codec` made of two models of a chunk; the parameters are held on the device."""

  def __init__(self, config: Any, params: Mapping[str, Any]):
    """`config` has a `spec`; `params` has a "decoder", which decides no code."""
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  @abc.abstractmethod
  def encoder(self) -> ChunkedModel:
    """Waveform to codes, `hop_length` samples a frame; zeros follow a clip's end."""

  @property
  @abc.abstractmethod
  def decoder(self) -> ChunkedModel:
    """Codes to waveform; zeros follow a clip's end."""

  @property
  def codebooks(self) -> Float[np.ndarray | jax.Array, "quantizers size dim"]:
    """The vectors that the codes stand for, one table per level; a frame is the sum of its own."""
    return self.params["codebooks"]

  @property
  def spec(self) -> CodecSpec:
    return self.config.spec

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the codes: all but the decoder's."""
    return {name: value for name, value in self.params.items() if name != "decoder"}

  def encoder_of(
    self,
    program: StoredProgram,
    sizes: Sizes,
    state: Callable[[Any, int], Any] | None = None,
    **reach: int,
  ) -> ChunkedModel:
    """The model of a program that maps (config, token_params, waveform, ends, state).

    Args:
      sizes: frames that a chunk may have.
      state: for a config and a number of clips, arrays like those that the program carries from
        chunk to chunk; they are 0 at a clip's start.
      reach: `left`, `right` and `first` of the model.
    """
    codes = np.zeros((0, self.spec.num_quantizers), np.int32)
    hop = self.spec.hop_length
    return self._model(program, self.token_params, codes, sizes, state, unit=hop, **reach)

  def decoder_of(
    self,
    program: StoredProgram,
    sizes: Sizes,
    state: Callable[[Any, int], Any] | None = None,
    **reach: int,
  ) -> ChunkedModel:
    """The same of a program that maps (config, params, codes, ends, state)."""
    nothing = np.zeros(0, np.float32)
    return self._model(program, self.params, nothing, sizes, state, dtype=np.int32, **reach)

  def encode(
    self,
    waveform: Float[np.ndarray | jax.Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch frames q"]:
    """Codes of `ceil(samples / hop_length)` frames, the last one padded as the codec knows it.

    Args:
      waveform: one clip a row.
      lengths: samples of each row that count; its codes past them are 0.
    """
    waveform, model = np.asarray(waveform), self.encoder
    codes = run(model, clips_of(waveform, lengths), max(1, len(waveform)))
    return rows_of(codes, model.nothing, model.num_frames(waveform.shape[1]))

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
    codes, model = np.asarray(codes), self.decoder
    waveforms = run(model, clips_of(codes, lengths), max(1, len(codes)))
    return rows_of(waveforms, model.nothing, codes.shape[1] * self.spec.hop_length)

  def prepare_decode(self, frames: int) -> None:
    """Begins to load or compile in the background what `decode` of one clip needs."""
    model = self.decoder
    if model.prepare is None:
      return
    for size in {chunk.size for chunk in plan(model, frames)}:
      codes = np.zeros((1, size, self.spec.num_quantizers), np.int32)
      model.prepare(codes, np.zeros(1, np.int32), model.start_state(1))

  def encode_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "frames q"]:
    """Codes of one long clip in bounded memory; equal to `encode`."""
    return run(self.encoder, [np.asarray(waveform)], 1)[0]

  def encode_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "frames q"]]:
    """Codes of each clip, as of `encode_long`, but clips of like length go side by side.

    Alone and together differ only where two entries of a codebook are as near to a latent as
    rounding.
    """
    return run(self.encoder, waveforms, batch_size)

  def stream_encoder(self, batch: int = 1) -> Stream:
    """A new stream: waveform pieces of any length in, codes of the completed frames out."""
    return Stream(self.encoder, batch)

  def stream_decoder(self, batch: int = 1) -> Stream:
    """A new stream: codes in, samples out as soon as no code still to come can change them."""
    return Stream(self.decoder, batch)

  def _model(
    self,
    program: StoredProgram,
    params: Mapping[str, Any],
    nothing: np.ndarray,
    sizes: Sizes,
    state: Callable[[Any, int], Any] | None,
    **declared: Any,
  ) -> ChunkedModel:
    return ChunkedModel(
      functools.partial(program, self.config, params),
      nothing,
      sizes,
      state and functools.partial(zero_state, state, self.config),
      prepare=functools.partial(program.prepare, self.config, params),
      **declared,
    )
