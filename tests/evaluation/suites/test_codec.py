from audiolm_jax.evaluation import report, signal
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.options import Domain
from audiolm_jax.evaluation.suites.codec import codec_suite


def by_figure(result):
  return {row.figure: row for row in result.rows}


def test_codec_suite_marks_the_row_with_all_levels(pulse_codec, voice):
  clips = [EvalClip(str(i), voice(120 + 30 * i, 800, seed=i, seconds=2)) for i in range(2)]
  rows = by_figure(codec_suite(pulse_codec, clips, Domain.SPEECH, coarse_levels=1))
  assert rows["stoi, 2 levels"].floor == 0.8 and rows["stoi, 1 levels"].floor is None
  assert rows["log_mel_db gained by 2 over 1 levels"].estimate.value > 0
  assert rows["log_mel_db falls with every level (1 = yes)"].verdict == "floor"
  assert 0 < rows["codebook perplexity over its size, worst level"].estimate.value < 1


def test_without_pesq_its_row_says_what_to_install(pulse_codec, voice, monkeypatch):
  monkeypatch.setattr(signal, "pesq_installed", lambda: False)
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=1))]
  row = by_figure(codec_suite(pulse_codec, clips, Domain.SPEECH, coarse_levels=1))[
    "pesq_wb, 2 levels"
  ]
  assert (row.estimate.n, row.verdict) == (0, "short")
  assert "requirements/evaluation.txt" in report.markdown_table([row])


def test_codec_suite_of_music_has_no_speech_metric(pulse_codec, voice):
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=1))]
  result = codec_suite(pulse_codec, clips, Domain.MUSIC, coarse_levels=1)
  assert not [row for row in result.rows if "stoi" in row.figure or "pesq" in row.figure]
