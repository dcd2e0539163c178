"""A detector that has learned to tell noise ("synthetic") from melodies ("real")."""

import jax
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.detection.detector import Detector
from audiolm_jax.detection.training import DetectorTrainable, DetectorTrainingConfig
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.training.optimizers import OptimizerConfig
from tests.conftest import melody

RATE = 16_000
CONFIG = ClassifierConfig(features=LogMelConfig(num_mels=16), channels=(4, 8, 8), groups=2)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
  """White noise as loud as a melody, float32 [samples]."""
  rng = np.random.default_rng(seed)
  return (0.2 * rng.standard_normal(round(seconds * RATE))).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="session")
def detector_trainable():
  optimizer = OptimizerConfig(name="adam", learning_rate=1e-2)
  return DetectorTrainable(DetectorTrainingConfig(CONFIG, optimizer, ema_decay=0.9))


@pytest.fixture(scope="session")
def detector_batch():
  sounds = [melody(0.5, seed=i) for i in range(4)] + [noise(0.5, seed=i) for i in range(4)]
  return {
    "waveform": np.stack(sounds),
    "length": np.full(8, RATE // 2, np.int32),
    "label": np.repeat(np.arange(2, dtype=np.int32), 4),
  }


@pytest.fixture(scope="session")
def trained_state(detector_trainable, detector_batch):
  """After forty steps, and the metrics of the first and of the last."""
  trainable = detector_trainable
  state = meta.unbox(jax.jit(trainable.init)(jax.random.key(0), detector_batch))
  step = jax.jit(trainable.train_step)
  said = []
  for _ in range(40):
    state, metrics = step(state, detector_batch, jax.random.key(1))
    said.append(jax.device_get(metrics))
  return state, said[0], said[-1]


@pytest.fixture(scope="session")
def detector(detector_trainable, trained_state):
  return Detector(CONFIG, jax.device_get(detector_trainable.inference_params(trained_state[0])))
