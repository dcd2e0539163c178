from pathlib import Path

import pytest

from audiolm_jax.bundles import list_bundles, load_bundle
from audiolm_jax.io import audio

SHIPPED = list_bundles()
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_speech_and_a_piano_bundle_ship():
  assert SHIPPED == ["piano_tiny", "speech_tiny"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_is_whole_and_small(name):
  bundle = load_bundle(name)  # checks every hash
  assert bundle.name == name and {"semantic", "coarse"} <= set(bundle.stages)
  assert sum(p.stat().st_size for p in bundle.path.iterdir()) <= 20e6  # pyright: ignore[reportOptionalMemberAccess]: it is there


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_lists_its_training_data(name):
  bundle = load_bundle(name, stages=())
  assert bundle.metadata["data"] and bundle.metadata["licence"]
  for heading in ("## Data", "## Measured", "## Limits"):
    assert heading in bundle.model_card


@pytest.mark.parametrize("example", ["speech_woman", "speech_man"])
def test_the_detector_that_ships_takes_the_examples_for_real(example):
  waveform, rate = audio.read_audio(EXAMPLES / f"{example}.flac")
  detector = load_bundle("speech_tiny", stages=()).detector
  assert detector is not None
  assert detector.detect(waveform, rate).probability_synthetic < 0.1
