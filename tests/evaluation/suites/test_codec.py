import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import lyra, report, signal
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.codec import BITS_PER_SECOND, PESQ_WB, STOI
from audiolm_jax.evaluation.metric import Better
from audiolm_jax.evaluation.options import Domain
from audiolm_jax.evaluation.speech import BY_DNSMOS, SpeechMeasures
from audiolm_jax.evaluation.suites.codec import codec_suite, outside_codecs, outside_suite


def by_figure(result):
  return {row.figure: row for row in result.rows}


def test_codec_suite_marks_the_row_with_all_levels(pulse_codec, voice):
  clips = [EvalClip(str(i), voice(120 + 30 * i, 800, seed=i, seconds=2)) for i in range(2)]
  rows = by_figure(codec_suite(pulse_codec, clips, Domain.SPEECH, coarse_levels=1))
  assert rows["STOI, 2 levels"].floor == 0.8 and rows["STOI, 1 levels"].floor is None
  assert rows["log-mel distance gained, dB, 2 over 1 levels"].estimate.value > 0
  assert rows["log-mel distance falls with every level (1 = yes)"].verdict == "floor"
  assert 0 < rows["codebook perplexity over its size, worst level"].estimate.value < 1


def test_without_pesq_its_row_names_the_extra(pulse_codec, voice, monkeypatch):
  monkeypatch.setattr(signal, "pesq_installed", lambda: False)
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=1))]
  row = by_figure(codec_suite(pulse_codec, clips, Domain.SPEECH, coarse_levels=1))[
    "PESQ-WB, 2 levels"
  ]
  assert (row.estimate.n, row.verdict) == (0, "short")
  assert "requirements/evaluation.txt" in report.markdown_table({"codec": [row]})


def test_codec_suite_of_music_has_no_speech_metric(pulse_codec, voice):
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=1))]
  result = codec_suite(pulse_codec, clips, Domain.MUSIC, coarse_levels=1)
  assert not [row for row in result.rows if row.metric in (STOI, PESQ_WB)]


def test_outside_codecs_have_the_rows_of_the_bundles_codec_and_their_bit_rate(voice):
  clips = [EvalClip("a", voice(120, 800, seed=0, seconds=2))]
  opus, skipped = outside_codecs(16_000, None)
  result = outside_suite(opus[:1], clips, 16_000, Domain.SPEECH)
  rows = by_figure(result)
  assert {"STOI, Opus at 6 kbit/s", "SI-SDR, dB, Opus at 6 kbit/s"} <= set(rows)
  assert rows["log-mel distance, dB, Opus at 6 kbit/s"].metric.better is Better.LOWER
  taken = result.details["Opus at 6 kbit/s"]["metrics"][BITS_PER_SECOND].value
  assert rows["STOI, Opus at 6 kbit/s"].note == f"takes {taken / 1000:.3g} kbit/s"
  assert skipped == {"Lyra v2": {"skipped": "it needs its models (--lyra_dir)"}}


def test_without_opus_its_rows_are_skipped_and_the_reason_is_kept(monkeypatch):
  monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {})
  codecs, skipped = outside_codecs(16_000, None)
  assert codecs == [] and "no Opus" in skipped["Opus"]["skipped"]


def test_lyra_models_without_the_package_are_an_error(monkeypatch, tmp_path):
  monkeypatch.setattr(lyra, "lyra_installed", lambda: False)
  with pytest.raises(UserError, match=r"requirements/evaluation\.txt"):
    outside_codecs(16_000, str(tmp_path))


class Loudness:
  """Transcribes a clip as its length and level, and embeds the levels of its halves."""

  name = "loudness"

  def transcribe(self, waveform, sample_rate):
    return f"{len(waveform)} {'loud' if np.abs(waveform).max() > 0.1 else 'quiet'}"

  def normalise(self, text):
    return text

  def embed(self, waveform, sample_rate):
    vector = np.array([np.abs(half).mean() for half in np.array_split(waveform, 2)])
    return vector / np.linalg.norm(vector)


@pytest.fixture
def two_sources(voice):
  swell = np.linspace(0, 1, 16_000, dtype=np.float32)
  one, other = (voice(120 + 60 * i, 800, seed=i, seconds=1) for i in range(2))
  return [
    EvalClip("a", one * swell, speaker="a", source="people", text="16000 soft"),
    EvalClip("b", other * swell[::-1], speaker="b", source="machines"),
  ]


def test_other_measures_are_of_the_coarse_levels_of_all_levels_and_of_the_recordings(
  pulse_codec, two_sources
):
  measures = SpeechMeasures(recognizer=Loudness(), speaker=Loudness(), missing={BY_DNSMOS: "no"})
  recordings = [measures.describe(clip.waveform, 16_000) for clip in two_sources]
  given = {"measures": measures, "recordings": recordings}
  result = codec_suite(pulse_codec, two_sources, Domain.SPEECH, coarse_levels=1, **given)
  rows = by_figure(result)
  own = "word error rate against the recognized recording"
  assert rows[f"{own}, 2 levels"].estimate.value == 0
  assert rows["word error rate against the text, 1 levels"].estimate.n == 1
  assert rows["word error rate against the text, recording"].estimate.value == 0.5
  assert rows["voice cosine with the recording by GE2E, 2 levels"].estimate.value > 0.99
  assert rows["speaker of the nearest recording by GE2E is right, among 2, 2 levels"]
  assert (rows["DNSMOS"].estimate.n, rows["DNSMOS"].note) == (0, "no")
  assert result.details["words"]["recording"] == ["16000 loud", "16000 loud"]
  opus, _ = outside_codecs(16_000, None)
  beside = by_figure(outside_suite(opus[-1:], two_sources, 16_000, Domain.SPEECH, **given))
  assert beside[f"{own}, Opus at 12 kbit/s"].estimate.value == 0
  assert not [figure for figure in beside if figure.endswith("recording")]


def test_each_of_several_sources_has_its_rows(pulse_codec, two_sources):
  rows = by_figure(codec_suite(pulse_codec, two_sources, Domain.MUSIC, coarse_levels=2))
  both, *apart = (
    rows[f"codes kept by decoding and encoding, level 1{label}"].estimate
    for label in ("", "; people", "; machines")
  )
  assert (both.n, apart[0].n, apart[1].n) == (2, 1, 1)
  assert both.value == np.mean([one.value for one in apart])
  assert "SI-SDR, dB, 2 levels; people" in rows and "SI-SDR, dB, 1 levels; people" not in rows
  one = codec_suite(pulse_codec, two_sources[:1], Domain.MUSIC, coarse_levels=2)
  assert not [row for row in one.rows if "people" in row.figure]
