from pathlib import Path

import pytest

from audiolm_jax.bundles import list_bundles, load_bundle
from audiolm_jax.io import audio

SHIPPED = list_bundles()
STAGES = {"speech": ["semantic", "text", "parallel"], "piano_tiny": ["semantic", "coarse"]}
MEGABYTES = {"speech": 43, "piano_tiny": 20}
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_speech_and_a_piano_bundle_ship():
  assert SHIPPED == ["piano_tiny", "speech"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_is_whole_and_small(name):
  bundle = load_bundle(name)  # checks every hash
  assert bundle.name == name and list(bundle.stages) == STAGES[name]
  assert sum(p.stat().st_size for p in bundle.path.iterdir()) <= 1e6 * MEGABYTES[name]  # pyright: ignore[reportOptionalMemberAccess]: it is not None


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_lists_its_training_data(name):
  bundle = load_bundle(name, stages=())
  assert bundle.metadata["data"] and bundle.metadata["licence"]
  for heading in ("## Data", "## Measured", "## Limits"):
    assert heading in bundle.model_card


@pytest.mark.parametrize("example", ["speech_woman", "speech_man"])
def test_the_detector_that_ships_takes_the_examples_for_real(example):
  waveform, rate = audio.read_audio(EXAMPLES / f"{example}.flac")
  detector = load_bundle("speech", stages=()).detector
  assert detector is not None
  assert detector.detect(waveform, rate).probability_synthetic < 0.1
