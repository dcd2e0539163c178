"""Codecs with residual vector quantization: one codec class for all configurations of networks."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, Key

from audiolm_jax.chunking import ChunkedModel, Sizes
from audiolm_jax.codec.causal import State
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.codec.quantizer import beam_quantize, dequantize, residual_quantize
from audiolm_jax.core import modules, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram


class ResidualConfig(abc.ABC):
  """The networks of a codec and how they run in chunks; a base class for dataclasses.

  Attributes:
    sample_rate: Hz.
    hop_length: samples per frame.
    latent_dim: dimension of the latents that are quantized.
    num_quantizers: residual levels.
    codebook_size: entries per level.
    search_width: number of code sequences that encoding keeps per frame, see `beam_quantize`; 1 for
      the nearest entry of each level.
    first_frames: minimum number of frames of the first chunk of a stream.
    lookahead_frames: number of later frames that contribute to the samples of a frame.
    chunk_sizes: the numbers of frames that a chunk may have.
  """

  sample_rate: int
  hop_length: Any  # int; Any because it may be a property that depends on other fields
  latent_dim: int
  num_quantizers: int
  codebook_size: int
  search_width: int = 1
  first_frames: int = 1
  lookahead_frames: int = 0
  chunk_sizes: ClassVar[Sizes]

  @property
  @abc.abstractmethod
  def encoder(self) -> nn.Module:
    """Maps (waveform, ends, state) to latents and the next state; see `encode_chunk`."""

  @property
  @abc.abstractmethod
  def decoder(self) -> nn.Module:
    """Maps (latents, ends, state) to waveform and the next state; see `decode_chunk`."""

  @abc.abstractmethod
  def encoder_state(self, batch: int) -> State:
    """Returns the state of the encoder at the start of a clip, all zeros."""

  @abc.abstractmethod
  def decoder_state(self, batch: int) -> State:
    """Returns the state of the decoder at the start of a clip, all zeros."""

  @abc.abstractmethod
  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""

  @property
  def spec(self) -> CodecSpec:
    """The rates and sizes of the tokens."""
    return CodecSpec(self.sample_rate, self.hop_length, self.num_quantizers, self.codebook_size)

  def init_params(self, keys: Key[Array, "2"], waveform: Float[Array, "batch samples"]) -> Params:
    """Returns new parameters {"encoder", "decoder"} with logical axes, from one random key each."""
    batch, samples = waveform.shape
    frames = -(-samples // self.hop_length)
    latents = jnp.zeros((batch, frames, self.latent_dim))
    inputs = (waveform, jnp.full(batch, samples), self.encoder_state(batch))
    encoder = self.encoder.init(keys[0], *inputs)
    inputs = (latents, jnp.full(batch, frames), self.decoder_state(batch))
    decoder = self.decoder.init(keys[1], *inputs)
    return {"encoder": encoder["params"], "decoder": decoder["params"]}

  def encode_chunk(
    self,
    params: Params,
    waveform: Float[Array, "batch samples"],
    ends: Int[Array, "batch"],
    state: State,
  ) -> tuple[Float[Array, "batch frames latent"], State]:
    """Returns the latents of a chunk of whole frames and the next state of the encoder.

    Args:
      params: parameters of the encoder.
      waveform: samples of the chunk; zeros after the end of a clip.
      ends: samples from the start of the chunk to the end of each clip.
      state: the state after the previous chunk.
    """
    return modules.apply(self.encoder, params, waveform, ends, state)

  def decode_chunk(
    self,
    params: Params,
    latents: Float[Array, "batch frames latent"],
    ends: Int[Array, "batch"],
    state: State,
  ) -> tuple[Float[Array, "batch samples"], State]:
    """Returns the samples of a chunk, delayed by `lookahead_frames`, and the next decoder state.

    Args:
      params: parameters of the decoder.
      latents: latents of the chunk.
      ends: frames from the start of the chunk to the end of each clip.
      state: the state after the previous chunk.
    """
    return modules.apply(self.decoder, params, latents, ends, state)

  def encode_latents(
    self, params: Params, waveform: Float[Array, "batch samples"]
  ) -> Float[Array, "batch frames latent"]:
    """Returns the latents of complete clips of whole frames, given the encoder's parameters."""
    batch, samples = waveform.shape
    ends = jnp.full(batch, samples)
    return self.encode_chunk(params, waveform, ends, self.encoder_state(batch))[0]

  def decode_latents(
    self, params: Params, latents: Float[Array, "batch frames latent"]
  ) -> Float[Array, "batch samples"]:
    """Returns the waveforms of complete clips, given the decoder's parameters."""
    batch, frames, _ = latents.shape
    latents = jnp.pad(latents, ((0, 0), (0, self.lookahead_frames), (0, 0)))
    ends = jnp.full(batch, frames)
    waveform, _ = self.decode_chunk(params, latents, ends, self.decoder_state(batch))
    return waveform[:, self.lookahead_frames * self.hop_length :]


class TrainableConfig(ResidualConfig):
  """A configuration of a codec that this project trains; `registry.CODECS` lists its subclasses."""

  # The subclasses are dataclasses.
  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

  @abc.abstractmethod
  def encoder_flops(self, samples: int) -> float:
    """Returns the floating-point operations of the encoder for a clip of whole frames."""

  @abc.abstractmethod
  def decoder_flops(self, samples: int) -> float:
    """Returns the floating-point operations of the decoder for a clip of whole frames."""


class ResidualCodec(ChunkedCodec):
  """Runs the networks of its configuration in chunks and carries a state from chunk to chunk.

  `params` is {"encoder", "decoder", "codebooks" [quantizers, size, latent]}. A decoding stream
  returns the samples of a frame after it has received the codes of `lookahead_frames` more frames.
  """

  config: ResidualConfig

  def searching(self, width: int) -> "ResidualCodec":
    """Returns a codec with the same parameters whose encoding uses a beam search of this width."""
    config: Any = self.config
    return type(self)(dataclasses.replace(config, search_width=width), self.params)

  @property
  def encoder(self) -> ChunkedModel:
    return self._encoder_of(encode_chunk)

  @property
  def latent_encoder(self) -> ChunkedModel:
    """Maps a waveform to latents before quantization, in the same chunks as `encoder`."""
    nothing = np.zeros((0, self.config.latent_dim), np.float32)
    return dataclasses.replace(self._encoder_of(latents_chunk), nothing=nothing)

  @property
  def decoder(self) -> ChunkedModel:
    c = self.config
    reach = {"first": c.first_frames, "right": c.lookahead_frames}
    return self.decoder_of(decode_chunk, c.chunk_sizes, c.decoder_state, **reach)

  def _encoder_of(self, program: StoredProgram) -> ChunkedModel:
    c = self.config
    return self.encoder_of(program, c.chunk_sizes, c.encoder_state, first=c.first_frames)


@functools.partial(StoredProgram, static_argnums=(0,))
def encode_chunk(
  config: ResidualConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the codes of a chunk of whole frames and the next state of the encoder."""
  latents, state = config.encode_chunk(params["encoder"], waveform, ends, state)
  if config.search_width == 1:
    return residual_quantize(latents, params["codebooks"]), state
  return beam_quantize(latents, params["codebooks"], config.search_width), state


@functools.partial(StoredProgram, static_argnums=(0,))
def latents_chunk(
  config: ResidualConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the latents that `encode_chunk` quantizes and the next state of the encoder."""
  return config.encode_chunk(params["encoder"], waveform, ends, state)


@functools.partial(StoredProgram, static_argnums=(0,))
def decode_chunk(
  config: ResidualConfig, params: Params, codes: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the samples of a chunk, delayed by `lookahead_frames`, and the next decoder state."""
  latents = dequantize(codes, params["codebooks"])
  return config.decode_chunk(params["decoder"], latents, ends, state)
