import dataclasses
import json

import numpy as np
import pytest
import soundfile

from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.suites import resynthesis
from audiolm_jax.evaluation.suites.resynthesis import resynthesis_suite
from tests.conftest import melody

RATE = 16_000
TEXTS = ["one two", "three", "four five"]


class LevelReader:
  """Reads a clip's first sample as the number of the text in it, and nothing from silence."""

  name = "level reader"

  def transcribe(self, waveform, sample_rate):
    assert sample_rate == RATE
    return TEXTS[round(waveform[0] * 10) - 1] if waveform[0] else ""


def clips(*numbers):
  return [np.full(100, number / 10, np.float32) for number in numbers]


def test_error_rates_are_over_all_words_and_their_rise_is_that_over_the_codec():
  heard = {"original": clips(1, 2, 3), "codec": clips(1, 2, 0), "resynthesis": clips(1, 0, 0)}
  result = resynthesis_suite(LevelReader(), TEXTS, heard, RATE)
  rows = {row.figure: row for row in result.rows}
  assert rows["word error rate, original"].estimate.value == 0
  assert rows["word error rate, codec"].estimate.value == pytest.approx(2 / 5)
  assert rows["word error rate, resynthesis"].estimate.value == pytest.approx(3 / 5)
  rise = rows["word error rate, resynthesis above codec"].estimate
  assert rise.value == pytest.approx(1 / 5) and 0 <= rise.low <= rise.high
  assert rows["character error rate, codec"].estimate.value == pytest.approx(9 / 21)
  assert "level reader" in rows["word error rate, codec"].note
  assert result.details["heard"]["codec"] == ["one two", "three", ""]


def test_clips_with_text_are_resynthesised_and_others_left_out(
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
  result = resynthesis.run(miniature_bundle, options)
  assert result.details["texts"] == ["good morning"]
  assert {row.estimate.n for row in result.rows} == {1}
  music = dataclasses.replace(options, domain=Domain.MUSIC)
  assert resynthesis.run(miniature_bundle, music).details["left_out"] == "music has no words"
  monkeypatch.setattr(resynthesis, "find_spec", lambda name: None)
  assert (
    "pip install pocketsphinx" in resynthesis.run(miniature_bundle, options).details["left_out"]
  )
