import json
import math

import numpy as np
import pytest

from audiolm_jax.evaluation import report, signal, suites
from audiolm_jax.evaluation.report import Better, Row, exact
from audiolm_jax.evaluation.statistics import Estimate
from audiolm_jax.evaluation.suites import Continuation, Domain, EvalClip

RATE = 16_000
PEOPLE = [(95 + 22 * i, 500 + 230 * (3 * i % 7)) for i in range(7)]


def by_figure(result):
  return {row.figure: row for row in result.rows}


def test_codec_suite_marks_the_row_with_all_levels(pulse_codec, voice):
  clips = [EvalClip(str(i), voice(120 + 30 * i, 800, seed=i, seconds=2)) for i in range(2)]
  rows = by_figure(suites.codec_suite(pulse_codec, clips, Domain.SPEECH, coarse_levels=1))
  assert rows["stoi, 2 levels"].floor == 0.8 and rows["stoi, 1 levels"].floor is None
  assert rows["log_mel_db gained by 2 over 1 levels"].estimate.value > 0
  assert rows["log_mel_db falls with every level (1 = yes)"].verdict == "floor"
  assert 0 < rows["codebook perplexity over its size, worst level"].estimate.value < 1


def test_without_pesq_its_row_says_what_to_install(pulse_codec, voice, monkeypatch):
  monkeypatch.setattr(signal, "pesq_installed", lambda: False)
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=1))]
  row = by_figure(suites.codec_suite(pulse_codec, clips, Domain.SPEECH, coarse_levels=1))[
    "pesq_wb, 2 levels"
  ]
  assert (row.estimate.n, row.verdict) == (0, "short")
  assert "requirements/evaluation.txt" in report.markdown_table([row])


def test_codec_suite_of_music_has_no_speech_metric(pulse_codec, voice):
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=1))]
  result = suites.codec_suite(pulse_codec, clips, Domain.MUSIC, coarse_levels=1)
  assert not [row for row in result.rows if "stoi" in row.figure or "pesq" in row.figure]


def test_semantic_suite_reads_sentences_and_voices_from_the_clips():
  def clip(sentence, speaker, level):
    return EvalClip(f"{sentence}{speaker}", np.full(8, level, np.float32), speaker, sentence)

  probes = [clip("one", s, 1.0) for s in "ab"] + [clip("two", s, 2.0) for s in "ab"]
  result = suites.semantic_suite(lambda w: w.astype(int), probes, num_clusters=4)
  assert result.rows[0].estimate.value == 1
  assert result.rows[0].verdict == "aim"
  assert by_figure(result)["share of tokens left when repeats collapse"].estimate.value == 1 / 8


def test_continuation_suite_tells_a_faithful_continuer_from_one_that_changes_the_voice(
  pulse_codec, voice
):
  clips = [
    EvalClip(str(i), voice(*v, seed=20 + i, seconds=11), speaker=str(i))
    for i, v in enumerate(PEOPLE)
  ]
  train = [
    EvalClip(f"t{i}{j}", voice(*v, seed=50 + 10 * i + j), speaker=f"t{i}")
    for i, v in enumerate([*PEOPLE, (150, 2000), (230, 600)])
    for j in range(2)
  ]
  model = suites.codec_speaker_model(pulse_codec, train)

  def loops(waveform):
    return np.tile([3, 5, 5], len(waveform) // 2000)

  def continuer(shift):
    def continue_prompt(prompt, seed):
      who = next(
        i for i, c in enumerate(clips) if np.array_equal(c.waveform[: len(prompt)], prompt)
      )
      made = voice(*PEOPLE[(who + shift) % len(PEOPLE)], seed=900 + seed, seconds=4)
      return Continuation(made, 0.5)

    return continue_prompt

  results = [
    by_figure(
      suites.continuation_suite(
        pulse_codec, loops, continuer(shift), clips, Domain.SPEECH, speaker_model=model
      )
    )
    for shift in (0, 3)
  ]
  same, other = (r["prompt's speaker found among 7, continuation"].estimate.value for r in results)
  assert same > 0.8 and other < 0.2
  rows = results[0]
  assert rows["prompt's speaker found among 7, real continuation"].estimate.value > 0.9
  assert rows["semantic tokens in loops, continuation"].estimate.value == 1
  assert rows["longest run of a semantic token, real"].estimate.value == 2
  assert rows["audio seconds made per second"].estimate.value == pytest.approx(8)
  assert rows["audio seconds made per second"].verdict == "aim"
  shifted = results[1]["pitch difference, semitones, continuation"].estimate.value
  assert rows["pitch difference, semitones, continuation"].estimate.value < 1 < shifted


def test_continuation_suite_needs_a_clip_longer_than_the_prompt(pulse_codec):
  clips = [EvalClip("short", np.ones(RATE, np.float32))]
  with pytest.raises(ValueError, match="no clip is longer"):
    suites.continuation_suite(pulse_codec, len, lambda *_: None, clips, Domain.MUSIC)


@pytest.mark.parametrize(
  ("value", "better", "floor", "aim", "verdict"),
  [
    (0.95, Better.HIGHER, 0.5, 0.9, "aim"),
    (0.7, Better.HIGHER, 0.5, 0.9, "floor"),
    (0.4, Better.HIGHER, 0.5, 0.9, "short"),
    (30.0, Better.LOWER, 40.0, 10.0, "floor"),
    (9.0, Better.LOWER, 40.0, 10.0, "aim"),
    (math.nan, Better.HIGHER, 0.5, 0.9, "short"),
    (1.0, Better.HIGHER, None, None, ""),
  ],
)
def test_verdict_says_which_mark_is_reached(value, better, floor, aim, verdict):
  assert Row("s", "f", exact(value), better, floor, aim).verdict == verdict


def test_table_and_json_hold_every_row(tmp_path):
  rows = [
    Row("codec", "stoi", Estimate(0.85, 0.8, 0.9, 12), floor=0.8, aim=0.909),
    Row("codec", "empty", exact(math.nan, 0)),
  ]
  table = report.markdown_table(rows)
  assert "| codec | stoi | 0.85 | 0.8 to 0.9 | 12 | 0.8 | 0.909 | floor |" in table
  path = tmp_path / "results.json"
  report.write_json(path, {"rows": rows, "array": np.arange(2), "n": np.float32(1.5)})
  content = json.loads(path.read_text())
  assert content["rows"][0]["estimate"]["n"] == 12
  assert content["rows"][0]["verdict"] == "floor"
  assert content["rows"][1]["estimate"]["value"] is None
  assert (content["array"], content["n"]) == ([0, 1], 1.5)
