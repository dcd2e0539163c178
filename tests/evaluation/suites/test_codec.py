import pytest
import soundfile

from audiolm_jax.errors import UserError
from audiolm_jax.evaluation import lyra, report, signal
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.options import Domain
from audiolm_jax.evaluation.suites.codec import codec_suite, outside_codecs, outside_suite


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


def test_outside_codecs_have_the_rows_of_the_bundles_codec_and_the_bits_they_take(voice):
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=2))]
  opus, left_out = outside_codecs(16_000, None)
  result = outside_suite(opus[:1], clips, 16_000, Domain.SPEECH)
  rows = by_figure(result)
  assert {"stoi, Opus at 6 kbit/s", "si_sdr_db, Opus at 6 kbit/s"} <= set(rows)
  assert rows["log_mel_db, Opus at 6 kbit/s"].better is report.Better.LOWER
  taken = result.details["Opus at 6 kbit/s"].metrics["bits_per_second"].value
  assert rows["stoi, Opus at 6 kbit/s"].note == f"takes {taken / 1000:.3g} kbit/s"
  assert left_out == {"Lyra v2": {"left_out": "no --lyra_dir is given"}}


def test_without_opus_its_rows_are_left_out_and_the_reason_is_kept(monkeypatch):
  monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {})
  codecs, left_out = outside_codecs(16_000, None)
  assert codecs == [] and "no Opus" in left_out["Opus"]["left_out"]


def test_lyra_that_is_asked_for_and_not_installed_is_an_error(monkeypatch, tmp_path):
  monkeypatch.setattr(lyra, "lyra_installed", lambda: False)
  with pytest.raises(UserError, match=r"requirements/evaluation\.txt"):
    outside_codecs(16_000, str(tmp_path))
