"""Speech to speech, with sounds whose level is the speaker and whose samples are words."""

import numpy as np

from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.speech import SpeechMeasures
from audiolm_jax.evaluation.suites.speech_to_speech import SpeechPair, speech_to_speech_suite

RATE = 16_000
WORDS = ("cero", "mil", "dos", "three")


class FakeNetworks:
  """The level of a clip is its voice; each of its samples, divided by the level, is a word."""

  name = "fake"

  def transcribe(self, waveform, sample_rate):
    assert sample_rate == RATE
    return " ".join(WORDS[round(float(x / waveform[0]))] for x in waveform[1:])

  def normalise(self, text):
    return text

  def embed(self, waveform, sample_rate):
    return np.eye(8)[round(float(waveform[0]) * 8)]


def sound(words, level):
  return np.array([level, *(level * WORDS.index(word) for word in words.split())], np.float32)


def pair(speaker, level, text, value, source, kind):
  target = EvalClip(text, sound(text, level), speaker, text=text, source=kind)
  return SpeechPair(target, sound(source, 7 / 8), value)


PAIRS = [
  pair("a", 1 / 8, "mil dos", "number-1002", "three three", "number"),
  pair("b", 2 / 8, "dos", "number-0002", "three", "number"),
  pair("b", 2 / 8, "cero", "number-0000", "three", "date"),
]
NETWORKS = SpeechMeasures(recognizer=FakeNetworks(), speaker=FakeNetworks())
RIGHT = "the recognized words state the right value"


def copied(content, voice, seed):
  return content / content[0] * voice[0]


def figures(convert, pairs=PAIRS, voices=None):
  voices = [p.target for p in pairs] if voices is None else voices
  result = speech_to_speech_suite(convert, copied, pairs, voices, 4, RATE, NETWORKS)
  return result, {row.figure: row.estimate.value for row in result.rows}


def test_a_conversion_that_always_states_two_in_the_given_voice():
  result, found = figures(lambda source, voice, seed: sound("dos", voice[0]))
  assert found[f"{RIGHT}, speech to speech"] == 1 / 3
  assert found[f"{RIGHT}, number, speech to speech"] == 1 / 2
  assert found[f"{RIGHT}, date, speech to speech"] == 0
  for kind in ("recording", "resynthesis of the target"):
    assert found[f"{RIGHT}, {kind}"] == 1
    assert found[f"word error rate against the text, {kind}"] == 0
  for kind in ("source recording", "resynthesis of the source"):
    assert found[f"{RIGHT}, {kind}"] == 0
    assert found[f"word error rate against the text, {kind}"] == 1
    assert found[f"word error rate against the recognized recording, {kind}"] == 1
  assert found["word error rate against the text, speech to speech"] == 2 / 4
  nearest = "speaker of the nearest recording by GE2E is right, among 2"
  assert found[f"{nearest}, speech to speech"] == 1
  assert result.details["clips"] == ["mil dos", "dos", "cero"]


def test_voices_are_of_other_speakers_than_the_target():
  given = []
  figures(lambda source, voice, seed: given.append((voice[0], len(source))) or source)
  assert given == [(2 / 8, 3), (1 / 8, 2), (1 / 8, 2)]
  result, found = figures(copied, PAIRS[1:])
  assert not found and "not that of the targets" in str(result.skip_reason)


def test_a_pair_without_another_voice_is_ignored():
  result, found = figures(copied, voices=[EvalClip("c", sound("dos dos", 1 / 8), "a")])
  assert result.details["clips"] == ["dos", "cero"]
  assert found[f"{RIGHT}, number, resynthesis of the target"] == 1
  assert found["voice cosine with the recording by GE2E, speech to speech"] == 1


def test_pairs_without_values_or_texts_have_no_such_rows():
  plain = [
    SpeechPair(EvalClip(p.target.id, p.target.waveform, p.target.speaker), p.source) for p in PAIRS
  ]
  _, found = figures(copied, plain)
  assert found and not any("value" in name or "the text" in name for name in found)
  assert found["word error rate against the recognized recording, resynthesis of the target"] == 0
  assert "word error rate against the recognized recording, recording" not in found
