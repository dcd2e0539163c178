"""Resynthesis in a voice, with sounds whose level is the speaker and whose sign is the word."""

import numpy as np

from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.speech import BY_WHISPER, SpeechMeasures
from audiolm_jax.evaluation.suites.voice import NEARER, voice_suite

RATE = 16_000
WORDS = {1: "yes", -1: "no"}


class FakeNetworks:
  name = "fake"

  def transcribe(self, waveform, sample_rate):
    assert sample_rate == RATE
    return WORDS[int(np.sign(waveform[0]))]

  def normalise(self, text):
    return text

  def embed(self, waveform, sample_rate):
    return np.eye(8)[round(abs(float(waveform[0])) * 8)]


def clip(speaker, level, word):
  voice, content = np.full(100, level), np.full(300, level * word)
  return EvalClip(f"{speaker}{word}", np.concatenate([voice, content]).astype(np.float32), speaker)


CLIPS = [clip("a", 1 / 8, 1), clip("a", 1 / 8, -1), clip("b", 3 / 8, -1)]


def faithful(content, voice, seed):
  return np.abs(voice[0]) * np.sign(content)


def careless(content, voice, seed):
  """Keeps the voice of the content, and ignores the given voice."""
  return np.abs(content)


NETWORKS = SpeechMeasures(recognizer=FakeNetworks(), speaker=FakeNetworks())


def figures(codec, resynthesize, clips=CLIPS, measures=NETWORKS):
  result = voice_suite(codec, resynthesize, clips, 100, measures, seed=0)
  return {row.figure: row for row in result.rows}


def test_words_and_the_given_voice_are_found(pulse_codec):
  rows = figures(pulse_codec, faithful)
  changes = "word error rate against the recognized recording"
  for kind in ("codec", "resynthesis in its own voice", "resynthesis in another voice"):
    assert rows[f"{changes}, {kind}"].estimate.value == 0
  nearest = "speaker of the nearest recording by GE2E is right, among 2"
  assert rows[f"{nearest}, resynthesis in its own voice"].estimate.value == 1
  assert rows[NEARER.title].estimate.value == 1 and rows[NEARER.title].estimate.n == 3


def test_lost_words_and_the_voice_of_the_content_are_found_too(pulse_codec):
  rows = figures(pulse_codec, careless)
  found = rows["word error rate against the recognized recording, resynthesis in another voice"]
  assert np.isclose(found.estimate.value, 2 / 3)
  assert rows[NEARER.title].estimate.value == 0


def test_one_speaker_and_missing_networks_have_fewer_rows(pulse_codec):
  rows = figures(pulse_codec, faithful, CLIPS[:2])
  assert NEARER.title not in rows and not any("another voice" in figure for figure in rows)
  none = SpeechMeasures(missing={BY_WHISPER: "no model"})
  rows = figures(pulse_codec, faithful, measures=none)
  assert [row.note for row in rows.values()] == ["no model"]
