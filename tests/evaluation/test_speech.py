import sys

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import ge2e, speech
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.metric import Better
from audiolm_jax.evaluation.opinion import Opinion
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.speech import Description, SpeechMeasures

NOTHING = np.zeros(10, np.float32)
OPTIONS = Options("b", "data", "out")


class Upper:
  """Normalises to lower case; its words are the same for every clip."""

  name = "upper"

  def transcribe(self, waveform, sample_rate):
    return "SAID"

  def normalise(self, text):
    return text.lower()


def unit(angle):
  return np.array([np.cos(angle), np.sin(angle)])


def clips(*texts, speakers="abc"):
  return [
    EvalClip(str(i), NOTHING, speaker=s, text=t)
    for i, (s, t) in enumerate(zip(speakers, texts, strict=False))
  ]


def estimates(rows):
  return {row.figure: row.estimate for row in rows}


def test_words_are_compared_with_the_recording_and_with_the_text_of_clips_that_have_one():
  recordings = [Description("One two"), Description("three four five six")]
  processed = {"codec": [Description("one two"), Description("three for five")]}
  found = estimates(
    speech.speech_rows(processed, recordings, clips("one to", None), recognizer=Upper())
  )
  own = found["word error rate against the recognized recording, codec"]
  assert (own.value, own.low, own.high, own.n) == (2 / 6, 0, 0.5, 2)
  text = found["word error rate against the text, codec"]
  assert (text.value, text.n) == (0.5, 1)
  assert found["word error rate against the text, recording"].value == 0.5
  assert len(found) == 3


def test_without_any_text_there_is_no_figure_against_it():
  one = [Description("a")]
  rows = speech.speech_rows({"codec": one}, one, clips(None), Upper())
  assert [row.figure for row in rows] == ["word error rate against the recognized recording, codec"]
  assert rows[0].metric.better is Better.LOWER and rows[0].note == "upper"


def test_opinions_are_averaged_for_clips_and_recordings():
  of = [Description(opinion=Opinion(2.0 + i, 3.0, 4.0)) for i in range(2)]
  better = [Description(opinion=Opinion(4.0, 4.5, 5.0))] * 2
  found = estimates(speech.speech_rows({"codec": of}, better, clips(None, None), None))
  overall = found["DNSMOS overall, codec"]
  assert (overall.value, overall.low, overall.high, overall.n) == (2.5, 2, 3, 2)
  assert found["DNSMOS signal, recording"].value == 4.5
  assert found["DNSMOS background, codec"].value == 4.0


def test_the_nearest_recording_is_right_if_it_is_by_the_same_speaker():
  recordings = [Description(voice=unit(angle)) for angle in (0.0, 1.0, 2.0)]
  processed = [Description(voice=unit(angle)) for angle in (0.1, 0.1, 1.2)]
  found = estimates(speech.speaker_rows({"codec": processed}, recordings, speakers=["a", "b", "b"]))
  # The first is nearest to itself, the second to another's, the third to another of the same.
  right = found["speaker of the nearest recording by GE2E is right, among 2, codec"]
  assert right.value == pytest.approx(2 / 3)
  cosine = found["voice cosine with the recording by GE2E, codec"]
  assert cosine.value == pytest.approx(np.mean(np.cos([0.1, 0.9, 0.8])))
  alone = speech.speaker_rows({"codec": processed}, recordings, speakers=["a"] * 3)
  assert len(alone) == 1


def test_a_figure_can_be_averaged_over_some_clips():
  recordings = [Description(voice=unit(angle)) for angle in (0.0, 1.0)]
  processed = {"codec": [Description(voice=unit(0.0))] * 2}
  cosine, right = speech.speaker_rows(processed, recordings, ["a", "b"])
  row = right.over([1], "; source")
  assert row.figure.endswith("among 2, codec; source")
  assert (row.estimate.value, row.estimate.n) == (0, 1)
  assert cosine.over([0], "").estimate.value == pytest.approx(1)


def test_a_missing_network_has_a_row_that_names_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "speechmos", None)
  monkeypatch.setattr(ge2e.importlib.util, "find_spec", lambda name: None)
  measures = speech.find_measures(OPTIONS)
  assert not measures
  notes = {row.figure: row.note for row in measures.missing_rows()}
  assert "--asr_model" in notes["word error rate by Whisper"]
  assert "requirements/evaluation.txt" in notes["DNSMOS"]
  assert "resemblyzer" in notes["voice by GE2E"]
  assert measures.describe(NOTHING, 16_000) == Description()


def test_music_has_no_speech_measures_and_misses_none():
  measures = speech.find_measures(Options("b", "data", "out", domain=Domain.MUSIC))
  assert not measures and not measures.missing


def test_a_whisper_model_without_the_package_is_an_error(monkeypatch):
  monkeypatch.setitem(sys.modules, "faster_whisper", None)
  with pytest.raises(UserError, match=r"--asr_model base\.en"):
    speech.find_measures(Options("b", "data", "out", asr_model="base.en"))


def test_a_clip_is_described_by_the_available_networks():
  measures = SpeechMeasures(recognizer=Upper())
  assert measures and measures.describe(NOTHING, 16_000) == Description(words="SAID")
