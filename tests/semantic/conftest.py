"""The smallest encoder that has every part."""

import numpy as np
import pytest

from audiolm_jax.semantic.conformer import ConformerConfig
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.trainables.w2v_bert import W2vBertConfig
from audiolm_jax.training.optimizers import OptimizerConfig


@pytest.fixture
def encoder_config() -> ConformerConfig:
  return ConformerConfig(
    features=LogMelConfig(num_mels=16),
    stacks=(1, 2),
    dim=16,
    num_heads=2,
    mlp_dim=32,
    kernel_size=3,
    subsample_channels=4,
    left_context=3,
    right_context=2,
    dropout_rate=0.0,
  )


@pytest.fixture
def w2v_config(encoder_config: ConformerConfig) -> W2vBertConfig:
  return W2vBertConfig(
    encoder=encoder_config,
    codebook_size=16,
    code_dim=8,
    gumbel_decay=0.99,
    optimizer=OptimizerConfig(learning_rate=1e-2, clip_norm=1.0),
  )


@pytest.fixture
def speechlike():
  """A function (samples, seed) -> [samples]: tones that change every 80 ms, in noise."""

  def make(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pitches = rng.choice([200.0, 500.0, 1100.0, 2500.0, 4000.0], -(-samples // 1280))
    phase = np.cumsum(np.repeat(pitches, 1280)[:samples]) * 2 * np.pi / 16_000
    waveform = 0.3 * np.sin(phase) + 0.01 * rng.standard_normal(samples)
    return waveform.astype(np.float32)

  return make
