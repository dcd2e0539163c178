"""Text to speech in a voice, with sounds whose level is the speaker and whose samples are words."""

import numpy as np
import pytest

from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.recognition import unaligned_end
from audiolm_jax.evaluation.speech import SpeechMeasures
from audiolm_jax.evaluation.suites.speaking import Speakers, speaking_suite

RATE = 16_000
WORDS = ("zero", "one", "two", "three", "four")
CUT = 4


class FakeNetworks:
  """The level of a clip is its voice; each of its samples, divided by the level, is a word."""

  name = "fake"

  def transcribe(self, waveform, sample_rate):
    assert sample_rate == RATE
    return " ".join(WORDS[round(float(x / waveform.min()))] for x in waveform)

  def normalise(self, text):
    return text

  def embed(self, waveform, sample_rate):
    return np.eye(8)[round(float(waveform.min()) * 8)]


def spoken(text, level):
  return np.array([level * WORDS.index(word) for word in text.split()], np.float32)


def clip(speaker, level, text):
  return EvalClip(f"{speaker} {text}", spoken(text, level), speaker, text=text)


CLIPS = [
  clip("a", 1 / 8, "one two three four"),
  clip("a", 1 / 8, "two one four three"),
  clip("b", 2 / 8, "one one two two"),
]
NETWORKS = SpeechMeasures(recognizer=FakeNetworks(), speaker=FakeNetworks())


def copied(content, voice, seed):
  return content / content.min() * voice.min()


def figures(speak, voices=CLIPS):
  result = speaking_suite(Speakers(speak, copied), CLIPS, voices, CUT, RATE, NETWORKS)
  return result, {row.figure: row.estimate.value for row in result.rows}


def test_a_faithful_speaker_has_all_words_and_the_given_voice():
  result, found = figures(lambda text, voice, seed: spoken(text, voice.min()))
  for kind in ("text to speech", "resynthesis", "recording"):
    assert found[f"word error rate against the text, {kind}"] == 0
    assert found[f"character error rate against the text, {kind}"] == 0
    assert found[f"the speech ends where the text ends, {kind}"] == 1
  nearest = "speaker of the nearest recording by GE2E is right, among 2"
  assert found[f"{nearest}, text to speech"] == found[f"{nearest}, resynthesis"] == 1
  assert result.details["texts"] == [clip.text for clip in CLIPS]


def test_a_speaker_that_stops_early_in_its_own_voice_is_found():
  _, found = figures(lambda text, voice, seed: spoken(" ".join(text.split()[:2]), 5 / 8))
  assert found["word error rate against the text, text to speech"] == 0.5
  assert found["the speech ends where the text ends, text to speech"] == 0
  assert found["the speech ends where the text ends, resynthesis"] == 1
  nearest = "speaker of the nearest recording by GE2E is right, among 2"
  assert found[f"{nearest}, text to speech"] < 1


def test_texts_are_spoken_in_the_voices_of_other_speakers_only():
  others = [clip("c", 3 / 8, "one one one one"), clip("a", 1 / 8, "one one one one")]
  given = []
  result, _ = figures(lambda text, voice, seed: given.append(voice) or spoken(text, 3 / 8), others)
  assert [voice.min() for voice in given] == [3 / 8, 3 / 8, 1 / 8]
  assert result.details["clips"] == [clip.id for clip in CLIPS]
  result, found = figures(None, [])
  assert not found and "not that of the texts" in str(result.skip_reason)


@pytest.mark.parametrize(
  ("recognized", "expected"),
  [
    ("it is five now", (0, 0)),
    ("it is nine now", (0, 0)),
    ("it is", (2, 0)),
    ("it is five now and then", (0, 2)),
    ("", (4, 0)),
    ("five now", (0, 0)),
  ],
)
def test_words_after_the_last_aligned_ones(recognized, expected):
  assert unaligned_end("It is five now.", recognized) == expected
