import json

import numpy as np
import pytest
import soundfile

from audiolm_jax.evaluation import speech
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.metric import Better
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.speech import BY_DNSMOS, SpeechMeasures
from audiolm_jax.evaluation.suites import resynthesis
from audiolm_jax.evaluation.suites.resynthesis import resynthesis_suite
from tests.conftest import melody

RATE = 16_000
TEXTS = ["one two", "three", "four five"]


class LevelReader:
  """Transcribes a clip as the text with the number of its first sample, and silence as nothing."""

  name = "level reader"

  def transcribe(self, waveform, sample_rate):
    assert sample_rate == RATE
    return TEXTS[round(waveform[0] * 10) - 1].upper() if waveform[0] else ""

  def normalise(self, text):
    return text.lower()

  def embed(self, waveform, sample_rate):
    return np.eye(4)[round(waveform[0] * 10)]


def clips(*numbers):
  return [np.full(100, number / 10, np.float32) for number in numbers]


SOUNDS = {"original": clips(1, 2, 3), "codec": clips(1, 2, 0), "resynthesis": clips(1, 0, 0)}


def with_texts(texts):
  return [
    EvalClip(str(i), np.zeros(1, np.float32), speaker=str(i), text=text)
    for i, text in enumerate(texts)
  ]


def test_error_rates_are_over_all_words_and_their_rise_is_that_over_the_codec():
  measures = SpeechMeasures(recognizer=LevelReader())
  result = resynthesis_suite(measures, with_texts(TEXTS), SOUNDS, RATE)
  rows = {row.figure: row for row in result.rows}
  assert rows["word error rate against the text, original"].estimate.value == 0
  assert rows["word error rate against the text, codec"].estimate.value == pytest.approx(2 / 5)
  assert rows["word error rate against the text, resynthesis"].estimate.value == pytest.approx(
    3 / 5
  )
  rise = rows["word error rate against the text, resynthesis above codec"].estimate
  assert rise.value == pytest.approx(1 / 5) and 0 <= rise.low <= rise.high
  assert rows["character error rate against the text, codec"].estimate.value == pytest.approx(
    9 / 21
  )
  assert "level reader" in rows["word error rate against the text, codec"].note
  assert result.details["recognized"]["codec"] == ["ONE TWO", "THREE", ""]


def test_without_texts_errors_are_counted_against_the_recognized_recording():
  measures = SpeechMeasures(recognizer=LevelReader(), missing={BY_DNSMOS: "not installed"})
  result = resynthesis_suite(measures, with_texts([None] * 3), SOUNDS, RATE)
  rows = {row.figure: row for row in result.rows}
  figure = "word error rate against the recognized recording"
  assert rows[f"{figure}, codec"].estimate.value == pytest.approx(2 / 5)
  assert rows[f"{figure}, resynthesis above codec"].estimate.value == pytest.approx(1 / 5)
  assert f"{figure}, original" not in rows
  assert rows["DNSMOS"].note == "not installed"


def test_a_voice_that_resynthesis_keeps_was_in_the_semantic_tokens():
  result = resynthesis_suite(
    SpeechMeasures(speaker=LevelReader()), with_texts([None] * 3), SOUNDS, RATE
  )
  rows = {row.figure: row for row in result.rows}
  right = "speaker of the nearest recording by GE2E is right, among 3"
  assert rows[f"{right}, codec"].estimate.value == pytest.approx(2 / 3)
  assert rows[f"{right}, resynthesis"].estimate.value == pytest.approx(1 / 3)
  assert rows[f"{right}, resynthesis"].metric.better is Better.LOWER
  assert rows[f"{right}, codec"].metric.better is Better.HIGHER
  assert not [figure for figure in rows if "error rate" in figure]


def test_clips_with_text_are_resynthesised_and_others_skipped(
  miniature_bundle, tmp_path, monkeypatch
):
  pytest.importorskip("pocketsphinx")
  rows = []
  for i, text in enumerate(["good morning", "", "too long"]):
    soundfile.write(tmp_path / f"{i}.wav", melody(1.0 + 3 * (i == 2), seed=i), RATE)
    seconds = 1.0 + 3 * (i == 2)
    rows.append({"path": f"{i}.wav", "split": "valid", "text": text, "seconds": seconds})
  (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  options = Options("b", str(tmp_path / "m.jsonl"), str(tmp_path), piece_seconds=3.0)
  monkeypatch.setattr(speech, "find_measures", lambda options: SpeechMeasures())
  result = resynthesis.run(miniature_bundle, options)
  assert result.details["texts"] == ["good morning"]
  assert {row.estimate.n for row in result.rows} == {1}
  monkeypatch.setattr(resynthesis, "find_spec", lambda name: None)
  assert "pip install pocketsphinx" in resynthesis.run(miniature_bundle, options).skip_reason  # pyright: ignore[reportOperatorIssue]: it is not None


def test_without_texts_and_whisper_the_suite_is_skipped(miniature_bundle, tmp_path, monkeypatch):
  pytest.importorskip("pocketsphinx")
  monkeypatch.setattr(speech, "find_measures", lambda options: SpeechMeasures())
  soundfile.write(tmp_path / "0.wav", melody(1.0), RATE)
  (tmp_path / "m.jsonl").write_text(json.dumps({"path": "0.wav", "split": "valid"}))
  options = Options("b", str(tmp_path / "m.jsonl"), str(tmp_path))
  assert "no valid clip" in resynthesis.run(miniature_bundle, options).skip_reason  # pyright: ignore[reportOperatorIssue]: it is not None
  monkeypatch.setattr(
    speech, "find_measures", lambda options: SpeechMeasures(speaker=LevelReader())
  )
  monkeypatch.setattr(LevelReader, "embed", lambda *_: np.ones(1))
  result = resynthesis.run(miniature_bundle, options)
  assert [row.figure for row in result.rows] == [
    f"voice cosine with the recording by GE2E, {kind}" for kind in ("codec", "resynthesis")
  ]
