import numpy as np
import pytest

from audiolm_jax.evaluation import degradations, frechet
from audiolm_jax.evaluation.frechet import DIM

RATE = 16_000


def drawn(rng, groups, windows, mean=0.0, scale=1.0):
  """Windows of prompts whose distribution is known."""
  return [mean + scale * rng.standard_normal((windows, DIM)) for _ in range(groups)]


@pytest.fixture(scope="module")
def speech(voice):
  """Embeddings of sixteen voices, and of the same voices after degradations."""
  clips = [voice(100 + 10 * i, 500 + 90 * i, seed=i, seconds=5) for i in range(16)]
  changes = {
    "clean": lambda w: w,
    "little noise": lambda w: degradations.add_noise(w, 30.0, len(w)),
    "much noise": lambda w: degradations.add_noise(w, 10.0, len(w)),
    "narrow": lambda w: degradations.narrow(w, RATE, 3_000),
  }
  return {
    name: [frechet.embed(change(clip), RATE) for clip in clips] for name, change in changes.items()
  }


def test_windows_last_a_second_and_begin_every_half_second(voice):
  clip = voice(120, 900, seed=0, seconds=3)
  windows = frechet.embed(clip, RATE)
  assert windows.shape == (5, DIM)
  assert frechet.embed(clip[: RATE - 1], RATE).shape == (0, DIM)
  later = frechet.embed(clip[RATE // 2 :], RATE)
  np.testing.assert_allclose(later[1:3], windows[2:4], atol=1e-4)


def test_embedding_of_one_sound_is_about_the_same_at_other_rates(voice):
  import soxr

  clip = voice(120, 900, seed=0, seconds=3)
  windows = frechet.embed(clip, RATE)
  again = frechet.embed(soxr.resample(clip, RATE, 24_000), 24_000)
  # In standard deviations of speech; a filter near 8 kHz is between the two.
  np.testing.assert_allclose(again.mean(0), windows.mean(0), atol=0.3)


def test_silence_has_a_finite_embedding():
  assert np.isfinite(frechet.embed(np.zeros(2 * RATE, np.float32), RATE)).all()


def test_a_set_is_no_distance_from_itself_in_any_order():
  rng = np.random.default_rng(0)
  windows = rng.standard_normal((60, DIM)) @ rng.standard_normal((DIM, DIM))
  other = 2 + rng.standard_normal((50, DIM))
  assert frechet.frechet_distance(windows, windows[::-1]) == pytest.approx(0, abs=1e-5)
  distance = frechet.frechet_distance(windows, other)
  assert frechet.frechet_distance(windows[::-1], other[::-1]) == pytest.approx(distance, abs=1e-5)
  assert frechet.frechet_distance(other, windows) == pytest.approx(distance, abs=1e-5)


def test_distance_is_the_closed_form_of_moments_that_are_exact():
  rng = np.random.default_rng(1)
  rows = rng.standard_normal((200, DIM))
  rows -= rows.mean(0)
  white = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
  turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
  one, other = rng.uniform(0.5, 3, (2, DIM))
  shift = rng.standard_normal(DIM)
  # Covariances that share their axes: the distance is that of the deviations along them.
  expected = (shift**2).sum() + ((one - other) ** 2).sum()
  made = white * other @ turn.T + shift
  assert frechet.frechet_distance(white * one @ turn.T, made) == pytest.approx(expected, abs=1e-5)


def test_distance_of_covariances_that_share_no_axes_is_by_the_root_of_their_product():
  rng = np.random.default_rng(2)
  one, other = (rng.standard_normal((80, DIM)) @ rng.standard_normal((DIM, DIM)) for _ in range(2))
  a, b = np.cov(one.T), np.cov(other.T)
  root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()  # pyright: ignore[reportAttributeAccessIssue]: NumPy leaves the type out
  expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(a + b) - 2 * root
  assert frechet.frechet_distance(one, other) == pytest.approx(expected, abs=1e-5)


def test_fewer_windows_than_dimensions_still_give_a_finite_distance():
  rng = np.random.default_rng(3)
  few = rng.standard_normal((5, DIM))
  assert frechet.frechet_distance(few, few) == pytest.approx(0, abs=1e-5)
  assert frechet.frechet_distance(few, rng.standard_normal((5, DIM))) > 0


def test_one_window_is_refused():
  with pytest.raises(ValueError, match="give at least 2"):
    frechet.frechet_distance(np.zeros((1, DIM)), np.zeros((9, DIM)))


def test_extrapolation_removes_the_bias_of_few_prompts():
  rng = np.random.default_rng(4)
  plain, found, covered = [], [], []
  truth = DIM * 0.3**2
  for _ in range(6):
    real, made = drawn(rng, 16, 8), drawn(rng, 16, 8, mean=0.3)
    estimate = frechet.frechet_estimate(real, made)
    plain.append(frechet.frechet_distance(np.concatenate(real), np.concatenate(made)))
    found.append(estimate.value)
    covered.append(estimate.low <= truth <= estimate.high)
  assert np.mean(plain) > 1.5 * truth
  assert np.mean(found) == pytest.approx(truth, rel=0.15)
  assert sum(covered) >= 4


def test_same_seed_gives_the_same_estimate_and_prompts_may_come_in_any_order():
  rng = np.random.default_rng(5)
  real, made = drawn(rng, 10, 8), drawn(rng, 10, 8, mean=1.0)
  estimate = frechet.frechet_estimate(real, made)
  assert estimate == frechet.frechet_estimate(real, made)
  backwards = frechet.frechet_estimate(real[::-1], made[::-1])
  assert backwards.value == pytest.approx(estimate.value, rel=0.05)


def test_too_few_prompts_or_windows_have_no_estimate():
  rng = np.random.default_rng(6)
  few, short = drawn(rng, frechet.LEAST_GROUPS - 1, 20), drawn(rng, 10, 2)
  assert np.isnan(frechet.frechet_estimate(few, few).value)
  assert np.isnan(frechet.frechet_estimate(short, short).value)
  assert np.isnan(frechet.frechet_between_halves(drawn(rng, 10, 20)).value)
  assert frechet.frechet_estimate([], []).n == 0


def test_halves_of_one_kind_of_sound_are_about_0_apart():
  halves = frechet.frechet_between_halves(drawn(np.random.default_rng(7), 24, 10))
  assert halves.n == 12
  assert halves.low < 0 < halves.high
  assert abs(halves.value) < 0.3


def test_distance_grows_with_noise_and_with_a_change_of_timbre(speech):
  def distance(name):
    return frechet.frechet_estimate(speech["clean"], speech[name])

  clean, little, much, narrow = map(distance, ("clean", "little noise", "much noise", "narrow"))
  assert clean.value == pytest.approx(0, abs=1e-5)
  assert clean.value < little.low < little.value < much.low
  assert narrow.low > 1


def test_mean_distance_is_between_the_mean_embeddings(speech):
  one, other = speech["clean"][:2]
  assert frechet.mean_distance(one, one) == 0
  assert frechet.mean_distance(one, one + 3.0) == pytest.approx(3 * np.sqrt(DIM))
  assert frechet.mean_distance(one, other) == frechet.mean_distance(other, one) > 0
  assert np.isnan(frechet.mean_distance(one, other[:0]))
