import pytest

from audiolm_jax.bundles import list_bundles, load_bundle

SHIPPED = list_bundles()


def test_a_speech_and_a_piano_bundle_ship():
  assert SHIPPED == ["piano_tiny", "speech_tiny"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_is_whole_and_small(name):
  bundle = load_bundle(name)  # checks every hash
  assert bundle.name == name and {"semantic", "coarse"} <= set(bundle.stages)
  assert sum(p.stat().st_size for p in bundle.path.iterdir()) <= 20e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_says_what_it_was_trained_on(name):
  bundle = load_bundle(name, stages=())
  assert bundle.metadata["data"] and bundle.metadata["licence"]
  for heading in ("## Data", "## Measured", "## Limits"):
    assert heading in bundle.model_card
