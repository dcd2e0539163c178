import numpy as np
import pytest

from audiolm_jax.evaluation.opinion import Opinion
from audiolm_jax.evaluation.paired_quality import paired_rows
from audiolm_jax.evaluation.speech import SpeechMeasures
from tests.tone_codec import CODEC

# A clip states, in its first samples, what the networks find in it.


def clip(score=3.0, voice=0, words=1):
  return np.array([score, voice, words, *np.zeros(957)], np.float32) / 1000


class Networks:
  """Rates, embeds and transcribes clips by their first samples."""

  name = "counter"

  def rate(self, waveform, sample_rate):
    return Opinion(float(1000 * waveform[0]), 0.0, 0.0)

  def embed(self, waveform, sample_rate):
    return np.eye(3)[round(1000 * waveform[1])]

  def transcribe(self, waveform, sample_rate):
    return " ".join(["word"] * round(1000 * abs(waveform[2])))

  def normalise(self, text):
    return text


ALL = SpeechMeasures(Networks(), Networks(), Networks())


def rows_of(measures, changed, plain, speakers):
  prompts = [clip(voice=number) for number in range(len(speakers))]
  sounds = {"changed": changed, "plain": plain}
  rows = paired_rows(measures, CODEC, sounds, prompts, speakers)
  return {row.figure: row for row in rows}


def test_differences_are_those_of_pairs_and_bounds_their_worse_ends():
  plain = [clip(3.0 + number, number) for number in range(3)]
  changed = [clip(2.9, 0), clip(4.0, 2), clip(4.8, 2)]
  found = rows_of(ALL, changed, plain, ["a", "b", "c"])
  assert found["DNSMOS overall, changed"].estimate.value == pytest.approx(3.9, abs=1e-3)
  name = "DNSMOS overall, difference"
  # The scores differ by -0.1, 0 and -0.2 in pairs, and by far more between clips.
  assert found[name].estimate.value == pytest.approx(-0.1, abs=1e-3)
  assert found[name].estimate.low == pytest.approx(-0.2, abs=1e-3)
  bound = found[f"{name}, 95 % bound"]
  assert bound.estimate.value == found[name].estimate.low and bound.verdict == "short"
  name = "speaker of the nearest prompt by GE2E is right, difference"
  assert found[name].estimate.value == pytest.approx(-1 / 3)
  assert found[f"{name}, 95 % bound"].estimate.value == -1 and found[name].note == "among 3"


def test_word_errors_after_the_codec_are_summed_over_all_clips(monkeypatch):
  plain = [clip(words=4), clip(words=6)]
  monkeypatch.setattr(
    "audiolm_jax.evaluation.paired_quality.through_codec",
    lambda codec, waveform: clip(words=round(1000 * waveform[2]) - 2 * (waveform[0] > 0.0035)),
  )
  changed = [clip(4.0, words=4), clip(words=6)]
  found = rows_of(SpeechMeasures(Networks()), changed, plain, "aa")
  name = "word error rate after another pass through the codec, difference"
  assert found[name].estimate.value == pytest.approx(2 / 10) and found[name].estimate.n == 2
  bound = found[f"{name}, 95 % bound"]
  assert bound.estimate.value == found[name].estimate.high == 0.5 and bound.verdict == "short"
  equal = rows_of(SpeechMeasures(Networks()), plain, plain, "aa")
  assert equal[f"{name}, 95 % bound"].verdict == "floor"


def test_figures_without_their_network_or_other_speakers_are_left_out():
  found = rows_of(SpeechMeasures(speaker=Networks()), [clip()], [clip()], "a")
  assert found == {}
