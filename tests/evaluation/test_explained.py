import numpy as np
import pytest

from audiolm_jax.evaluation.explained import explained_share, music_frames

RATE, STEP = 16_000, 640


def test_features_of_a_tune_are_those_of_its_notes(play):
  notes = [(0.0, 60), (1.0, 67), (2.0, 57)]  # C4, G4, A3
  found = music_frames(play(notes, 3.0), RATE, STEP)
  assert found.constant_q.shape == (75, 88) and found.chroma.shape == (75, 12)
  for start, key in notes:
    steps = slice(int(start * 25) + 8, int(start * 25) + 20)
    assert (found.chroma[steps].argmax(axis=1) == key % 12).all()
    assert (found.constant_q[steps].argmax(axis=1) == key - 21).all()
  low, high = (found.height[s : s + 12].mean() for s in (58, 33))
  assert 8 < high - low < 12  # ten semitones
  # The steepest rises are at the notes.
  rises = set(np.argsort(found.onset[:, 0])[-2:])
  assert rises <= {24, 25, 26, 49, 50, 51}
  assert found.sounding.all()


def test_silence_does_not_sound_and_steps_are_rounded_up(play):
  waveform = np.concatenate([play([(0.0, 60)], 1.0), np.zeros(RATE, np.float32), [0.0]])
  found = music_frames(waveform.astype(np.float32), RATE, STEP)
  assert len(found.sounding) == 51
  assert found.sounding[:20].all() and not found.sounding[32:].any()
  assert np.isfinite(found.chroma).all() and np.isfinite(found.height).all()


@pytest.fixture
def pieces():
  """Ten pieces whose feature is 3 for token 0, -1 for token 1, and noise of variance 1."""
  rng = np.random.default_rng(0)
  tokens = [rng.integers(0, 2, 400) for _ in range(10)]
  features = [np.where(t, -1.0, 3.0)[:, None] + rng.standard_normal((400, 1)) for t in tokens]
  return tokens, features, np.arange(10) % 4


def test_the_share_is_that_of_the_variance_between_tokens(pieces):
  tokens, features, folds = pieces
  found = explained_share(tokens, features, folds)
  assert found.value == pytest.approx(4 / 5, abs=0.02)  # 4 between tokens, 1 within
  assert found.low < found.value < found.high and found.n == 10


def test_tokens_without_information_explain_nothing_however_many_they_are(pieces):
  _, features, folds = pieces
  rng = np.random.default_rng(1)
  for size in (2, 300):
    found = explained_share([rng.integers(0, size, 400) for _ in features], features, folds)
    assert -0.15 < found.value < 0.01  # the means of few steps are noise


def test_a_token_that_other_pieces_lack_is_predicted_by_their_mean(pieces):
  tokens, features, folds = pieces
  tokens = [np.full(400, 7 + i) for i in range(len(tokens))]
  assert explained_share(tokens, features, folds).value == pytest.approx(0, abs=0.01)
  assert np.isnan(explained_share(tokens, [np.ones((400, 1))] * 10, folds).value)
