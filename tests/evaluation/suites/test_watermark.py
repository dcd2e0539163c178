import numpy as np
import pytest

from audiolm_jax.evaluation import suite
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.suites import watermark
from audiolm_jax.evaluation.suites.watermark import Continuations, watermark_suite
from tests.conftest import melody
from tests.tone_codec import CODEC, MARK, RATE, marked_codes, sound_of


@pytest.fixture(scope="module")
def result():
  recordings = [sound_of(marked_codes(150, 0, 0, seed)) for seed in (1, 2)]
  marked = [sound_of(marked_codes(200, 1, 200, seed)) for seed in (3, 4, 5)]
  made = Continuations(marked, recordings, 2.0, 1.6)
  channels = {"clean": lambda w: w, "silence": np.zeros_like}
  return watermark_suite(MARK, CODEC, recordings, made, channels)


@pytest.fixture(scope="module")
def rows(result):
  return {row.figure: row for row in result.rows}


def test_survival_is_that_of_each_level_and_channel(rows):
  name = "communities that survive, corrected for chance"
  for level in (1, 2):
    assert rows[f"{name}, level {level}, clean"].estimate.value > 0.9
    assert rows[f"{name}, level {level}, silence"].estimate.value == pytest.approx(0, abs=0.01)
    number = rows[f"effective number of communities, level {level}"].estimate.value
    assert 15 < number < 24
    assert rows[f"different communities after the same one, level {level}"].estimate.value > 0.9


def test_marks_are_found_clean_and_cropped_and_not_in_silence(rows, result):
  def evidence(of):
    return rows[f"median -log10 p of marked samples, {of}"].estimate.value

  assert min(evidence("clean"), evidence("cropped"), evidence("0.5 s of each second")) > 6
  assert evidence("silence") < 1 and evidence("the same codec, 1 levels") < evidence("clean")
  needed = rows["median seconds until p < 1e-6, s, clean"]
  assert 1 <= needed.estimate.value <= 3 and needed.note == "reached by 3 of 3"
  never = rows["median seconds until p < 1e-6, s, silence"]
  assert np.isnan(never.estimate.value) and never.note == "reached by 0 of 3"
  assert len(result.details["log10_p"]["clean"]) == 3


def test_unmarked_sounds_have_no_more_false_positives_than_nominal(rows):
  for kind in ("recordings", "through the codec", "unmarked"):
    assert rows[f"share below 1e-3, {kind}, default key"].estimate.value == 0
    assert rows[f"share below 1e-3, {kind}, 200 random keys"].estimate.value < 0.01
    assert rows[f"share below 1e-6, {kind}, 200 random keys"].estimate.value == 0
  assert rows["time of sampling with the mark over without"].estimate.value == 1.25


def test_a_bundle_without_a_watermark_is_skipped(miniature_bundle, tmp_path):
  options = Options("miniature", str(tmp_path), str(tmp_path))
  assert not suite.WATERMARK.is_met(miniature_bundle, options)
  assert "has no watermark" in str(watermark.run(miniature_bundle, options).skip_reason)


def test_a_clip_at_each_offset_is_encoded_once():
  codes = watermark.codes_of(CODEC, melody(1.0))
  assert codes.shape == (16, (RATE - 300) // 320, 2)
