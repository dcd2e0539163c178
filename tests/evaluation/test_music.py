import numpy as np
import pytest

from audiolm_jax.evaluation import music
from audiolm_jax.evaluation.music import Key

RATE = 16_000
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)


@pytest.fixture(scope="module")
def scale(play):
  """A scale up and down, ending on its triad: 4 s, four notes a second."""

  def make(tonic, steps):
    line = [*steps, 12, *steps[::-1]]
    notes = [(0.25 * i, tonic + step) for i, step in enumerate(line)]
    notes += [(0.0, tonic - 12), (3.75, tonic), (3.75, tonic + steps[2]), (3.75, tonic + steps[4])]
    return music.music_statistics(play(notes, 4.75), RATE)

  return make


@pytest.fixture(scope="module")
def c_major(scale):
  return scale(60, MAJOR)


def test_a_c_major_scale_is_in_c_major_and_not_in_its_relative(c_major):
  scores = music.key_scores(c_major.chroma)
  assert music.estimate_key(c_major.chroma) == Key(0, minor=False)
  assert str(music.estimate_key(c_major.chroma)) == "C major"
  assert scores[0] > scores[12 + 9] + 0.05


def test_transposed_music_has_the_transposed_key(scale):
  up = scale(66, MAJOR)
  assert music.estimate_key(up.chroma) == Key(6, minor=False)
  assert music.estimate_key(np.roll(up.chroma, 3)) == Key(9, minor=False)


def test_a_minor_scale_is_in_the_minor_key(scale):
  assert music.estimate_key(scale(57, MINOR).chroma) == Key(9, minor=True)


@pytest.mark.parametrize("tonic", [0, 4, 11])
@pytest.mark.parametrize("minor", [False, True])
def test_a_triad_weighed_by_its_tonic_has_its_key(tonic, minor):
  chroma = np.zeros(12)
  chroma[[tonic, (tonic + 4 - minor) % 12, (tonic + 7) % 12]] = 1.0, 0.6, 0.8
  scores = music.key_scores(chroma)
  assert music.estimate_key(chroma) == Key(tonic, minor)
  assert scores.shape == (24,) and scores.max() < 1
  np.testing.assert_allclose(music.key_scores(5 * chroma), scores)


def test_scales_are_those_of_the_keys():
  assert Key(0, minor=False).scale == {0, 2, 4, 5, 7, 9, 11} == Key(9, minor=True).scale
  assert Key(7, minor=False).scale == {7, 9, 11, 0, 2, 4, 6}


def test_every_note_is_an_onset_and_a_chord_is_one(play):
  times = [0.3, 0.8, 1.1, 1.9, 2.2, 3.0, 3.4]
  sound = play([(t, 60 + i) for i, t in enumerate(times)] + [(1.9, 55), (1.9, 67)], 4.0)
  np.testing.assert_allclose(music.onset_times(sound, RATE), times, atol=0.03)


def test_silence_has_no_onset_and_noise_far_below_does_not_add_any(play):
  assert len(music.onset_times(np.zeros(2 * RATE, np.float32), RATE)) == 0
  quiet = 0.001 * play([(0.5, 60), (1.0, 64)], 2.0)
  assert len(music.onset_times(quiet, RATE)) == 2


def test_a_steady_beat_is_clearer_than_random_notes(play):
  rng = np.random.default_rng(0)
  steady = play([(0.1 + 0.4 * i, 60) for i in range(14)], 6.0)
  random = play([(t, 60) for t in np.sort(rng.uniform(0, 5.8, 14))], 6.0)
  clear, unclear = (music.pulse_clarity(sound, RATE) for sound in (steady, random))
  assert clear > 0.8 and unclear < 0.5
  assert music.pulse_clarity(np.zeros(3 * RATE, np.float32), RATE) == 0.0


def test_music_agrees_with_itself_in_everything(c_major):
  found = music.agreement(c_major, c_major)
  assert set(found) == set(music.AGREEMENT)
  for metric in (music.CHROMA, music.KEY_CORRELATION):
    assert found[metric] == pytest.approx(1.0)
  assert found[music.SAME_KEY] == 1.0 and found[music.NOTES_IN_KEY] > 0.9
  assert found[music.ONSETS] == found[music.PULSE] == found[music.PITCH] == 0


def test_near_keys_agree_better_than_far_ones(scale, c_major):
  near, far = (music.agreement(scale(tonic, MAJOR), c_major) for tonic in (67, 66))
  for metric in (music.CHROMA, music.KEY_CORRELATION, music.NOTES_IN_KEY):
    assert near[metric] > far[metric] + 0.1
  assert near[music.SAME_KEY] == far[music.SAME_KEY] == 0.0
  assert far[music.PITCH] == pytest.approx(6, abs=2)


def test_twice_the_onsets_are_an_octave_of_density(play):
  slow, fast = (
    music.music_statistics(play([(0.1 + gap * i, 60) for i in range(round(3.8 / gap))], 4.0), RATE)
    for gap in (0.4, 0.2)
  )
  found = music.agreement(fast, slow)[music.ONSETS]
  assert found == pytest.approx(1.0, abs=0.15)
  assert slow.onsets_per_second == pytest.approx(2.25, abs=0.3)
  assert slow.notes_per_onset == pytest.approx(1.0, abs=0.2)


def test_a_piece_without_onsets_counts_as_half_an_onset(c_major):
  silent = music.music_statistics(np.zeros(4 * RATE, np.float32), RATE)
  found = music.agreement(silent, c_major)[music.ONSETS]
  assert found == pytest.approx(np.log2(c_major.onsets_per_second / (0.5 / 4)))


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_silence_agrees_with_nothing(c_major, seconds):
  silent = music.music_statistics(np.zeros(round(seconds * RATE), np.float32), RATE)
  found = music.agreement(silent, c_major)
  assert found[music.CHROMA] == found[music.SAME_KEY] == found[music.KEY_CORRELATION] == 0
  assert np.isnan(found[music.NOTES_IN_KEY]) and np.isnan(silent.note_range_semitones)
  assert music.agreement(c_major, silent)[music.SAME_KEY] == 0
  assert music.agreement(silent, silent)[music.SAME_KEY] == 0
