"""SoundStream for inference: trained parameters behind the `Codec` protocol."""

import functools

import jax

from audiolm_jax.chunking import ChunkedModel, Sizes
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.quantizer import dequantize, residual_quantize
from audiolm_jax.codec.soundstream import (
  Decoder,
  Encoder,
  SoundStreamConfig,
  State,
  decoder_state,
  encoder_state,
)
from audiolm_jax.core import modules
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram

# 5 s at 50 frames per second, and the end of a clip in pieces of 1 s.
_SIZES = Sizes.of_two(250, 50)


class SoundStreamCodec(ChunkedCodec):
  """SoundStream as a codec. Codes and samples depend on no later frame.

  `params` is {"encoder", "decoder", "codebooks" [quantizers, size, latent]}.

  Source: SoundStream, sections III-A to III-C.
  """

  config: SoundStreamConfig

  @property
  def encoder(self) -> ChunkedModel:
    return self.encoder_of(encode_chunk, _SIZES, encoder_state)

  @property
  def latent_encoder(self) -> ChunkedModel:
    return self.latent_encoder_of(latents_chunk, _SIZES, encoder_state)

  @property
  def decoder(self) -> ChunkedModel:
    return self.decoder_of(decode_chunk, _SIZES, decoder_state)


@functools.partial(StoredProgram, static_argnums=(0,))
def encode_chunk(
  config: SoundStreamConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the codes of whole frames of samples and the next state of the encoder."""
  del ends  # no frame depends on later samples
  latents, state = modules.apply(Encoder(config), params["encoder"], waveform, state)
  return residual_quantize(latents, params["codebooks"]), state


@functools.partial(StoredProgram, static_argnums=(0,))
def latents_chunk(
  config: SoundStreamConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the latents that `encode_chunk` quantizes and the next state of the encoder."""
  del ends  # no frame depends on later samples
  return modules.apply(Encoder(config), params["encoder"], waveform, state)


@functools.partial(StoredProgram, static_argnums=(0,))
def decode_chunk(
  config: SoundStreamConfig, params: Params, codes: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the samples of frames of codes and the next state of the decoder."""
  del ends  # no sample depends on later codes
  latents = dequantize(codes, params["codebooks"])
  return modules.apply(Decoder(config), params["decoder"], latents, state)
