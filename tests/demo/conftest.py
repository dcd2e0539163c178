"""The miniature bundle with a detector that has learned nothing, and a prompt."""

import dataclasses

import jax
import numpy as np
import pytest
import soundfile
from flax.core import meta

from audiolm_jax.detection.classifier import Classifier, ClassifierConfig
from audiolm_jax.detection.detector import Detector
from audiolm_jax.semantic.features import LogMelConfig
from tests.conftest import melody

RATE = 16_000


@pytest.fixture(scope="session")
def demo_bundle(miniature_bundle):
  config = ClassifierConfig(features=LogMelConfig(num_mels=16), channels=(4, 8), groups=2)
  window = np.zeros((1, RATE), np.float32)
  params = meta.unbox(jax.jit(Classifier(config).init)(jax.random.key(0), window))["params"]
  return dataclasses.replace(miniature_bundle, detector=Detector(config, params))


@pytest.fixture(scope="session")
def prompt(tmp_path_factory):
  path = tmp_path_factory.mktemp("prompts") / "tune.wav"
  soundfile.write(path, melody(1.5), RATE)
  return path


@pytest.fixture
def ask(prompt):
  """Values as the page sends them, with changes."""
  return lambda **changes: (
    {
      "mode": "continuation",
      "bundle": "miniature",
      "prompt": str(prompt),
      "duration": 1.0,
      "prompt_seconds": 1.0,
      "temperature_semantic": 0.6,
      "temperature_coarse": 0.8,
      "temperature_fine": 0.6,
      "seed": 3,
      "num_samples": 1,
    }
    | changes
  )
