import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import communities
from audiolm_jax.evaluation.communities import Survival, survival
from tests.conftest import melody


def confused(groups, size=24, seed=0):
  """Confusions of codes within groups, and a few between them."""
  rng = np.random.default_rng(seed)
  group = np.arange(size) % groups
  counts = rng.integers(20, 40, (size, size)) * (group[:, None] == group)
  return counts + (rng.random((size, size)) < 0.1), group


def test_codes_that_are_confused_form_a_community():
  pytest.importorskip("sknetwork")
  counts, group = confused(4)
  counts[23] = counts[:, 23] = 0  # does not occur; its vector is that of code 5
  codebook = np.stack([np.arange(24.0), group], axis=1)
  codebook[23] = codebook[5] + 0.1
  found = communities.communities_of(counts, np.ones((24, 24), int), codebook)
  expected = [*group[:23], group[5]]
  assert len(set(found)) == 4 and len(set(zip(found, expected, strict=True))) == 4


def test_communities_that_a_sampler_cannot_choose_are_divided():
  """Halves of the codes, such as those of silence, never follow each other but survive."""
  pytest.importorskip("sknetwork")
  quarter, half = np.arange(24) % 4, np.arange(24) % 2
  equal = [group[:, None] == group for group in (quarter, half)]
  counts = 30 * equal[0] + 29 * equal[1]
  codebook = np.arange(24.0)[:, None]
  found = communities.communities_of(counts, 50 * equal[1], codebook)
  assert len(set(found)) == 4


def test_choice_is_the_share_of_pairs_that_differ():
  group = np.arange(24) % 4
  assert communities.choice(np.full((24, 24), 100), group) == pytest.approx(0.75, abs=0.01)
  assert communities.choice(100 * (group[:, None] == group), group) == 0.0
  assert communities.choice(np.zeros((24, 24), int), group) == 0.0
  # Few observations are not taken for certainty: two successors of each code, both equally likely.
  rng = np.random.default_rng(0)
  sparse = np.zeros((24, 24), int)
  np.add.at(sparse, (np.repeat(np.arange(24), 2), rng.integers(0, 24, 48)), 1)
  assert 0.6 < communities.choice(sparse, group) < 0.9


def test_pairs_of_few_communities_repeat():
  group = np.arange(24) % 4
  everywhere = np.full((24, 24), 100)
  assert communities.distinct(everywhere, group) == pytest.approx(16 / 200, abs=1e-4)
  alone = communities.distinct(everywhere, np.arange(24))
  assert alone == pytest.approx(576 / 200 * (1 - (1 - 1 / 576) ** 200))


def test_survival_has_its_chance_and_the_number_of_communities():
  counts, group = confused(4)
  kept = survival(counts, group)
  assert kept.share > 0.95 and kept.chance == pytest.approx(0.25, abs=0.01)
  assert kept.corrected > 0.9 and kept.effective == pytest.approx(4, abs=0.1)
  independent = np.outer(np.arange(1, 25), np.arange(1, 25))
  by_chance = survival(independent, group)
  assert by_chance.corrected == pytest.approx(0, abs=1e-9) and by_chance.share > 0.2
  assert survival(counts, np.zeros(24, int)) == Survival(1.0, 1.0, 1.0)
  assert survival(counts, np.zeros(24, int)).corrected == 0.0


def test_confusions_compare_the_same_moments(miniature_bundle, monkeypatch):
  """Without a shift the clean channel is encoding, decoding and encoding; each frame counts."""
  codec, clip = miniature_bundle.codec, melody(1.0)
  through = {"clean": lambda w: w, "silence": np.zeros_like}
  monkeypatch.setattr(communities, "OFFSETS", 10_000)
  counts, following = communities.confusions(codec, [clip, clip], through, 3)
  assert (following.sum(axis=(1, 2)) == 2 * 49).all()
  before = codec.encode_long(clip)
  after = codec.encode_long(codec.decode(before[None])[0].clip(-1, 1))
  for level in range(3):
    assert counts["clean"][level].sum() in (96, 98)
    assert np.trace(counts["clean"][level]) == pytest.approx(
      2 * (before == after)[:-1, level].sum(), abs=4
    )
    assert (counts["silence"][level].sum(axis=0) > 0).sum() <= 3


def test_the_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(communities.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install 'scikit-network"):
    communities.check_installed()


def test_every_channel_keeps_the_length_at_44100_hz():
  clip = np.resize(melody(1.0), 44_100)
  for name, channel in communities.channels(44_100).items():
    assert channel(clip).shape == clip.shape, name
