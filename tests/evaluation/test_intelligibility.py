import sys

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import intelligibility, recognition, speech
from audiolm_jax.evaluation.intelligibility import WordChecks
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.recognition import Phrase
from audiolm_jax.evaluation.speech import Description

SECOND = np.zeros(16_000, np.float32)


class Fixed:
  """Recognizes the same phrases in every clip."""

  name = "fixed"

  def __init__(self, *phrases):
    self.found = [Phrase(*phrase) for phrase in phrases]

  def phrases(self, waveform, sample_rate):
    return self.found

  def transcribe(self, waveform, sample_rate):
    return recognition.text_of(self.found)

  def normalise(self, text):
    return text.lower()


def test_words_of_the_dictionary_count_by_their_probability():
  found = [Phrase(" The cat, zzk", 0.5), Phrase(" SAT.", 0.25)]
  words = {"the", "cat", "sat"}
  assert intelligibility.clear_words(found, Fixed(), words) == 2 * 0.5 + 0.25
  assert intelligibility.clear_words([], Fixed(), words) == 0


def test_both_figures_are_made_for_each_kind_of_sound():
  recognizer = Fixed((" the cat", 0.8))
  described = speech.SpeechMeasures(recognizer).describe_all(
    {"real": [SECOND, SECOND[:8000]], "silent": [SECOND]}, 16_000
  )
  assert described["real"][0].words == "the cat"
  described["silent"] = [Description("")]
  checks = WordChecks({"cat"}, Fixed(("the dog", 1.0)), {speech.BY_WHISPER: "no reason"})
  sounds = {"real": [SECOND, SECOND[:8000]], "silent": [SECOND]}
  rows = intelligibility.check_rows(checks, recognizer, sounds, described, 16_000)
  found = {row.figure: row.estimate.value for row in rows}
  clear = intelligibility.CLEAR_WORDS.title
  differ = intelligibility.DISAGREEMENT.title
  assert found[f"{clear}, real"] == pytest.approx((0.8 + 1.6) / 2)
  assert f"{clear}, silent" not in found  # its words have no probabilities
  assert found[f"{differ}, real"] == 0.5
  assert rows[-1].note == "no reason" and np.isnan(rows[-1].estimate.value)


def test_what_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "spellchecker", None)
  found = intelligibility.find_checks(Options("b", "data", "out"))
  assert found.dictionary is None and found.second is None
  assert "requirements/evaluation.txt" in found.missing[intelligibility.CLEAR_WORDS]
  assert "--second_asr_model" in found.missing[intelligibility.DISAGREEMENT]


def test_the_dictionary_of_a_language_is_that_of_the_package():
  pytest.importorskip("spellchecker")
  words = intelligibility.load_dictionary("en")
  assert "house" in words and "zzkq" not in words
  with pytest.raises(UserError, match="no dictionary of the language 'xx'"):
    intelligibility.load_dictionary("xx")
