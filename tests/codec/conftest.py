"""A miniature codec and audio for it."""

import jax
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.codec.frame_rate_codec import FrameRateCodec
from audiolm_jax.codec.quantizer import kmeans_start
from audiolm_jax.codec.soundstream import (
  Decoder,
  Encoder,
  SoundStreamConfig,
  decoder_state,
  encoder_state,
)
from audiolm_jax.codec.soundstream_codec import SoundStreamCodec

CONFIG = SoundStreamConfig(
  encoder_channels=2, decoder_channels=2, latent_dim=8, num_quantizers=3, codebook_size=16
)
FRAME_RATE = FrameRateConfig(
  encoder_short_dim=6,
  encoder_short_layers=1,
  decoder_short_dim=10,
  decoder_short_layers=1,
  encoder_dim=8,
  encoder_layers=2,
  decoder_dim=12,
  decoder_layers=2,
  latent_dim=8,
  num_quantizers=3,
  codebook_size=16,
)


def chirp(samples: int, seed: int = 0) -> np.ndarray:
  """A gliding tone with a little noise, float32 [samples]."""
  rng = np.random.default_rng(seed)
  time = np.arange(samples) / 16_000
  tone = 0.4 * np.sin(2 * np.pi * (150 + 60 * seed + 200 * time) * time)
  return (tone + 0.02 * rng.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="session")
def codec() -> SoundStreamCodec:
  """A codec with random weights and codebooks fitted to its own latents."""
  waveform = chirp(32_000)[None]
  zeros = encoder_state(CONFIG, 1)
  encoder = meta.unbox(jax.jit(Encoder(CONFIG).init)(jax.random.key(0), waveform, zeros))
  latents, _ = Encoder(CONFIG).apply(encoder, waveform, zeros)
  decoder = meta.unbox(
    jax.jit(Decoder(CONFIG).init)(jax.random.key(1), latents, decoder_state(CONFIG, 1))
  )
  quantizer = kmeans_start(
    latents.reshape(-1, 8), CONFIG.num_quantizers, CONFIG.codebook_size, jax.random.key(2)
  )
  return SoundStreamCodec(
    CONFIG,
    {
      "encoder": encoder["params"],
      "decoder": decoder["params"],
      "codebooks": quantizer.codebooks,
    },
  )


@pytest.fixture(scope="session")
def frame_rate_codec() -> FrameRateCodec:
  """The same of a frame-rate codec."""
  waveform = chirp(32_000)[None]
  keys = jax.random.split(jax.random.key(0))
  params = meta.unbox(FRAME_RATE.init_params(keys, waveform))  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  latents = FRAME_RATE.encode_latents(params["encoder"], waveform)  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  quantizer = kmeans_start(latents.reshape(-1, 8), 3, 16, jax.random.key(2))
  return FrameRateCodec(FRAME_RATE, params | {"codebooks": quantizer.codebooks})
