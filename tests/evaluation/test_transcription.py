import numpy as np
import pytest

from audiolm_jax.evaluation.transcription import HIGHEST_KEY, LOWEST_KEY, key_activity, transcribe

RATE = 16_000


def test_known_notes_are_found_at_their_times(play):
  notes = [(0.2, 48), (0.7, 64), (1.2, 67), (1.7, 72), (2.2, 55), (2.7, 60)]
  found = transcribe(play(notes, 3.5), RATE)
  assert found.pitches.tolist() == [pitch for _, pitch in notes]
  np.testing.assert_allclose(found.onsets, [time for time, _ in notes], atol=0.1)


def test_a_repeated_note_is_found_each_time(play):
  found = transcribe(play([(0.2 + 0.5 * i, 62) for i in range(5)], 3.0), RATE)
  assert found.pitches.tolist() == [62] * 5


def test_all_notes_of_a_chord_are_found(play):
  chord = {60, 67, 76}
  found = transcribe(play([(0.3, pitch) for pitch in chord], 1.5), RATE)
  assert set(found.pitches) == chord
  np.testing.assert_allclose(found.onsets, 0.3, atol=0.1)


def test_loudness_changes_nothing(play):
  sound = play([(0.2, 50), (0.8, 65), (1.4, 69)], 2.0)
  loud, quiet = transcribe(sound, RATE), transcribe(0.1 * sound, RATE)
  np.testing.assert_array_equal(loud.pitches, quiet.pitches)


@pytest.mark.parametrize("seconds", [0.05, 2.0])
def test_silence_has_no_notes(seconds):
  found = transcribe(np.zeros(round(seconds * RATE), np.float32), RATE)
  assert len(found.pitches) == len(found.onsets) == 0


def test_another_rate_gives_the_same_keys(play):
  half = play([(0.1, 60)], 1.0)[::2]  # its partials end at 4 kHz
  activity = key_activity(half, RATE // 2)
  assert activity.shape[0] == HIGHEST_KEY - LOWEST_KEY + 1
  assert activity.sum(axis=1).argmax() == 60 - LOWEST_KEY
