import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation import abx
from audiolm_jax.evaluation.abx import PhoneItem

LINE = "6295-244435-0009 0.2925 0.4725 IH L NG 6295"


def token(phone, speaker, angle, context=("s", "t"), frames=3):
  """An item whose frames all point one way, given in degrees."""
  radians = np.radians(angle)
  item = PhoneItem("f", 0.0, 0.1, phone, context, speaker)
  return item, np.tile([np.cos(radians), np.sin(radians)], (frames, 1))


def test_items_are_read_in_the_libri_light_format(tmp_path):
  path = tmp_path / "dev.item"
  path.write_text(f"#file onset offset #phone prev-phone next-phone speaker\n{LINE}\n\n")
  assert abx.read_items(path) == [
    PhoneItem("6295-244435-0009", 0.2925, 0.4725, "IH", ("L", "NG"), "6295")
  ]
  path.write_text(LINE.replace("0.4725", "soon"))
  with pytest.raises(DataError, match="line 1: no item of 7 fields"):
    abx.read_items(path)
  path.write_text("#only a head\n")
  with pytest.raises(DataError, match="has no items"):
    abx.read_items(path)
  with pytest.raises(DataError, match="cannot read"):
    abx.read_items(tmp_path / "gone.item")


@pytest.mark.parametrize(
  ("rate", "onset", "offset", "expected"),
  [
    (50.0, 0.0, 0.1, [0, 1, 2, 3, 4]),
    (25.0, 0.05, 0.15, [1, 2, 3]),
    (25.0, 0.03, 0.05, [1]),  # the middle of no frame is inside
    (25.0, 9.0, 9.2, [19]),  # past the end
  ],
)
def test_an_item_has_the_frames_whose_middles_it_holds(rate, onset, offset, expected):
  features = np.arange(20.0)[:, None]
  item = PhoneItem("f", onset, offset, "a", ("b", "c"), "s")
  assert abx.frames_of(item, features, rate)[:, 0].tolist() == expected


def test_distances_are_angles_along_the_best_alignment():
  up, right = np.array([[0.0, 1.0]]), np.array([[2.0, 0.0]])
  assert abx.warped_distance(up, right) == pytest.approx(0.5)
  assert abx.warped_distance(up, -up) == pytest.approx(1.0)
  slow = np.concatenate([up, up, up, right])
  assert abx.warped_distance(slow, np.concatenate([up, right])) == pytest.approx(0.0, abs=1e-6)


def test_distant_phones_are_distinguished_and_ties_are_half_errors():
  near = [token("a", "1", d) for d in (0, 5, 10)] + [token("b", "1", d) for d in (90, 95)]
  report = abx.abx(near)
  assert report.within.value == 0.0 and report.within.n == 2
  assert report.num_triples == (3 * 2 * 2 + 2 * 3, 0) and report.across.n == 0
  same = [token(phone, "1", 30) for phone in "aabb"]
  assert abx.abx(same).within.value == 0.5


def test_what_differs_between_speakers_is_an_error_across_them_only():
  # The second speaker's `a` is where the first one has `b`.
  items = [token("a", "1", d) for d in (0, 2)] + [token("b", "1", d) for d in (60, 62)]
  items += [token("a", "2", d) for d in (60, 62)] + [token("b", "2", d) for d in (0, 2)]
  report = abx.abx(items)
  assert report.within.value == 0.0 and report.across.value == 1.0


def test_phones_are_compared_in_the_same_context_only():
  items = [token("a", "1", 0, ("s", "t")), token("a", "1", 0, ("s", "t"))]
  items += [token("b", "1", 0, ("p", "t")), token("b", "1", 0, ("p", "t"))]
  assert abx.abx(items).num_triples == (0, 0)


def test_contexts_count_equally_whatever_their_size():
  # One context of many right triples, one of few that are wrong three times out of four.
  right = [token("a", "1", d, ("s", "t")) for d in range(5)]
  right += [token("b", "1", 90 + d, ("s", "t")) for d in range(5)]
  wrong = [token("a", "1", d, ("p", "t")) for d in (0, 90)]
  wrong += [token("b", "1", d, ("p", "t")) for d in (1, 91)]
  assert abx.abx(right + wrong).within.value == pytest.approx((0.0 + 0.75) / 2, abs=1e-9)


def test_large_groups_are_cut_and_the_seed_decides():
  rng = np.random.default_rng(0)
  items = [token(p, "1", rng.uniform(0, 90)) for p in "ab" for _ in range(30)]
  first = abx.abx(items, seed=1)
  assert first.num_triples[0] == 2 * 10 * 9 * 10
  assert first.within == abx.abx(items, seed=1).within != abx.abx(items, seed=2).within


def test_information_is_all_of_it_for_tokens_that_name_phones_and_none_for_chance():
  phones = ["a", "b", "c"] * 40
  named = {"f": ([{"a": 4, "b": 0, "c": 9}[p] for p in phones], phones)}
  report = abx.phone_report(named)
  assert report.pnmi.value == pytest.approx(1.0)
  assert report.cluster_purity == report.phone_purity == 1.0
  rng = np.random.default_rng(0)
  chance = {"f": (rng.integers(0, 3, 3000).tolist(), [str(x) for x in rng.integers(0, 3, 3000)])}
  assert abx.phone_report(chance).pnmi.value == pytest.approx(0.0, abs=0.01)
  one_token = {"f": ([0] * 120, phones)}
  assert abx.phone_report(one_token).cluster_purity == pytest.approx(1 / 3)
