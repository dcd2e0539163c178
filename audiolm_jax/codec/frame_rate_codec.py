"""The frame-rate codec for inference: trained parameters behind the `Codec` protocol."""

import functools

import jax

from audiolm_jax.chunking import ChunkedModel, Sizes
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.frame_rate import (
  Decoder,
  Encoder,
  FrameRateConfig,
  State,
  decoder_state,
  encoder_state,
)
from audiolm_jax.codec.quantizer import dequantize, residual_quantize
from audiolm_jax.core import modules
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram

# 5 s at 50 frames per second.
_SIZES = Sizes.in_steps(250, 25)


class FrameRateCodec(ChunkedCodec):
  """The frame-rate codec, which carries a state and looks `lookahead_frames` ahead in decoding.

  In a stream the samples of a frame are complete `lookahead_frames` after its codes. `params` is
  {"encoder", "decoder", "codebooks" [quantizers, size, latent]}.
  """

  config: FrameRateConfig

  @property
  def encoder(self) -> ChunkedModel:
    return self.encoder_of(encode_chunk, _SIZES, encoder_state)

  @property
  def latent_encoder(self) -> ChunkedModel:
    return self.latent_encoder_of(latents_chunk, _SIZES, encoder_state)

  @property
  def decoder(self) -> ChunkedModel:
    return self.decoder_of(decode_chunk, _SIZES, decoder_state, right=self.config.lookahead_frames)


@functools.partial(StoredProgram, static_argnums=(0,))
def encode_chunk(
  config: FrameRateConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  del ends  # no frame depends on later samples
  latents, state = modules.apply(Encoder(config), params["encoder"], waveform, state)
  return residual_quantize(latents, params["codebooks"]), state


@functools.partial(StoredProgram, static_argnums=(0,))
def latents_chunk(
  config: FrameRateConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the latents that `encode_chunk` quantizes and the next state of the encoder."""
  del ends  # no frame depends on later samples
  return modules.apply(Encoder(config), params["encoder"], waveform, state)


@functools.partial(StoredProgram, static_argnums=(0,))
def decode_chunk(
  config: FrameRateConfig, params: Params, codes: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  latents = dequantize(codes, params["codebooks"])
  return modules.apply(Decoder(config), params["decoder"], latents, ends, state)
