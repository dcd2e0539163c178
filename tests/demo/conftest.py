"""The miniature bundle with a detector that has learned nothing, and a prompt."""

import dataclasses

import jax
import numpy as np
import pytest
import soundfile
from flax.core import meta

from audiolm_jax.detection.classifier import Classifier, ClassifierConfig
from audiolm_jax.detection.detector import Detector
from audiolm_jax.lm.stage import Stage
from audiolm_jax.semantic.features import LogMelConfig
from tests.conftest import melody
from tests.lm.helpers_conditioned import CONFIG, SPEC, conditioned_params

RATE = 16_000


@pytest.fixture(scope="session")
def demo_bundle(miniature_bundle):
  config = ClassifierConfig(features=LogMelConfig(num_mels=16), channels=(4, 8), groups=2)
  window = np.zeros((1, RATE), np.float32)
  params = meta.unbox(jax.jit(Classifier(config).init)(jax.random.key(0), window))["params"]
  return dataclasses.replace(miniature_bundle, detector=Detector(config, params))


@pytest.fixture(scope="session")
def speaking_bundle(miniature_bundle):
  # Without the fine stage, whose programs take as long to compile as the others together.
  stages = {name: miniature_bundle.stages[name] for name in ("semantic", "coarse")}
  stages["text"] = Stage(SPEC, CONFIG, conditioned_params())
  return dataclasses.replace(miniature_bundle, name="speaking", stages=stages)


@pytest.fixture(scope="session")
def there(demo_bundle, speaking_bundle, tmp_path_factory):
  """A running server of two bundles with two voices."""
  pytest.importorskip("gradio")
  from audiolm_jax.demo import page, server
  from audiolm_jax.demo.requests import RequestLimits
  from audiolm_jax.demo.voices import DRAWN, Voice

  folder = tmp_path_factory.mktemp("examples")
  soundfile.write(folder / "tune.flac", melody(1.5), RATE)
  bundles = {"miniature": demo_bundle, "speaking": speaking_bundle}
  voices = {**DRAWN, "anna": Voice(melody(1.5).astype(np.float32), RATE)}
  limits = RequestLimits(max_upload_bytes=100_000, max_characters=100)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(page, "examples", lambda: [str(folder / "tune.flac")])
    with server.running(bundles, limits, max_queue=2, voices=voices) as there:
      yield there


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
