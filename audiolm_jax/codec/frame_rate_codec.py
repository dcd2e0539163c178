"""The frame-rate codec for inference: trained parameters behind the `Codec` protocol."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.blocks import initial_state
from audiolm_jax.codec.causal_codec import CausalCodec
from audiolm_jax.codec.frame_rate import (
  Decoder,
  Encoder,
  FrameRateConfig,
  State,
  decoder_state,
  encoder_state,
)
from audiolm_jax.codec.quantizer import dequantize, residual_quantize


class FrameRateCodec(CausalCodec):
  """Encodes and decodes in blocks of 5 s, carrying the state between blocks.

  A frame's samples are complete `lookahead_frames` later: in a stream they come so many frames
  after their codes. `params` is {"encoder", "decoder", "codebooks" [quantizers, size, latent]}.
  """

  config: FrameRateConfig

  @property
  def delay_frames(self) -> int:
    return self.config.lookahead_frames

  @property
  def codebooks(self) -> Float[jax.Array, "quantizers size latent"]:
    return self.params["codebooks"]

  def encoder_state(self, batch: int) -> State:
    return initial_state(encoder_state, self.config, batch)

  def decoder_state(self, batch: int) -> State:
    return initial_state(decoder_state, self.config, batch)

  def encode_block(
    self, waveform: Float[np.ndarray, "batch samples"], ends: Int[np.ndarray, "batch"], state: State
  ) -> tuple[Int[jax.Array, "batch frames q"], State]:
    del ends  # no frame depends on later samples
    return _encode(self.config, self.token_params, waveform, state)

  def decode_block(
    self, codes: Int[np.ndarray, "batch frames q"], ends: Int[np.ndarray, "batch"], state: State
  ) -> tuple[Float[jax.Array, "batch samples"], State]:
    return _decode(self.config, self.params, codes, ends, state)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: FrameRateConfig, params: Mapping[str, Any], waveform: jax.Array, state: State
) -> tuple[jax.Array, State]:
  latents, state = Encoder(config).apply({"params": params["encoder"]}, waveform, state)
  return residual_quantize(latents, params["codebooks"]), state


@functools.partial(jax.jit, static_argnums=0)
def _decode(
  config: FrameRateConfig,
  params: Mapping[str, Any],
  codes: jax.Array,
  ends: jax.Array,
  state: State,
) -> tuple[jax.Array, State]:
  latents = dequantize(codes, params["codebooks"])
  return Decoder(config).apply({"params": params["decoder"]}, latents, ends, state)
