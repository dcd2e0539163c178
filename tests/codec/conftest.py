"""A miniature codec and audio for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.codec.quantizer import kmeans_start
from audiolm_jax.codec.residual_codec import ResidualCodec, ResidualConfig
from audiolm_jax.codec.soundstream import SoundStreamConfig

CONFIG = SoundStreamConfig(
  encoder_channels=2, decoder_channels=2, latent_dim=8, num_quantizers=3, codebook_size=16
)
# Four short frames per frame, which the defaults do not have.
FRAME_RATE = FrameRateConfig(
  short_hop=80,
  encoder_window=320,
  decoder_window=320,
  window_lead=1,
  lookahead_frames=1,
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

# The default rates and windows.
SINGLE_RATE = FrameRateConfig(
  encoder_short_dim=8,
  encoder_dim=8,
  encoder_layers=1,
  decoder_dim=12,
  decoder_layers=2,
  decoder_short_dim=12,
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


def fitted(config: ResidualConfig, *seeds: int) -> ResidualCodec:
  """A codec with random weights and codebooks fitted to its own latents."""
  waveform = jnp.asarray(chirp(32_000)[None])
  keys = jax.vmap(jax.random.key)(jnp.array(seeds))
  params = meta.unbox(jax.jit(config.init_params)(keys, waveform))
  latents = config.encode_latents(params["encoder"], waveform)
  sizes = (config.num_quantizers, config.codebook_size)
  quantizer = kmeans_start(latents.reshape(-1, config.latent_dim), *sizes, jax.random.key(2))
  return ResidualCodec(config, params | {"codebooks": quantizer.codebooks})


@pytest.fixture(scope="session")
def codec() -> ResidualCodec:
  """A miniature SoundStream."""
  return fitted(CONFIG, 0, 1)


@pytest.fixture(scope="session")
def frame_rate_codec() -> ResidualCodec:
  """A miniature frame-rate codec with short frames."""
  return fitted(FRAME_RATE, 0, 1)


@pytest.fixture(scope="session")
def single_rate_codec() -> ResidualCodec:
  """A miniature frame-rate codec without short frames."""
  return fitted(SINGLE_RATE, 0, 1)
