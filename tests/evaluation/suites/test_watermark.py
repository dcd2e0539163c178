import dataclasses

import numpy as np
import pytest
import soundfile

from audiolm_jax.detection import watermark_detector
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig
from audiolm_jax.evaluation import degradations, suite
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.suites import watermark
from audiolm_jax.evaluation.suites.watermark import Carrier, Continuations, watermark_suite
from tests.conftest import melody
from tests.tone_codec import CODEC, MARK, RATE, marked_codes, sound_of


@pytest.fixture(scope="module")
def result():
  recordings = [sound_of(marked_codes(150, 0, 0, seed)) for seed in (1, 2)]
  marked = [sound_of(marked_codes(200, 1, 200, seed)) for seed in (3, 4, 5)]
  made = Continuations(marked, recordings, 2.0, 1.6)
  channels = {"clean": lambda w: w, "silence": np.zeros_like}
  carriers = [
    Carrier(payload, sound_of(marked_codes(400, 1, 400, seed, payload)))
    for seed, payload in ((6, b"\x35"), (7, b"\xca"), (8, b"\x01\x02\x03\x04"))
  ]
  carriers.append(Carrier(b"\0", marked[0]))  # which has a mark without a payload
  return watermark_suite(MARK, CODEC, recordings, made, channels, carriers)


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

  edits = "cropped", "0.5 s of each second", "music at 10 dB below"
  assert min(map(evidence, ("clean", *edits))) > 6
  assert evidence("silence") < 1 and evidence("the same codec, 1 levels") < evidence("clean")
  needed = rows["median seconds until p < 1e-6, s, clean"]
  assert 1 <= needed.estimate.value <= 3 and needed.note == "reached by 3 of 3"
  never = rows["median seconds until p < 1e-6, s, silence"]
  assert np.isnan(never.estimate.value) and never.note == "reached by 0 of 3"
  assert len(result.details["log10_p"]["clean"]) == 3


def test_payloads_count_if_they_are_read_exactly(rows):
  name = "payloads that are read exactly"
  assert rows[f"{name}, 8 bits from 8 s, clean"].estimate.value == pytest.approx(2 / 3)
  assert rows[f"{name}, 8 bits from 8 s, clean"].estimate.n == 3
  assert rows[f"{name}, 8 bits from 8 s, silence"].estimate.value == 0
  assert rows[f"{name}, 32 bits from 8 s, clean"].estimate.n == 1


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


def test_continuations_of_a_bundle_are_measured_after_each_channel(
  miniature_bundle, tmp_path, monkeypatch
):
  monkeypatch.setattr(watermark, "_PAYLOAD_SECONDS", {1: 0.5})
  monkeypatch.setattr(watermark, "_RANDOM_KEYS", 2)
  monkeypatch.setattr(watermark_detector, "OFFSETS", 2)
  soundfile.write(tmp_path / "a.wav", melody(1.5), RATE)
  (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "split": "valid"}')
  options = Options(
    "miniature", str(tmp_path / "m.jsonl"), str(tmp_path), prompt_seconds=0.5, duration=0.5
  )
  mark = Watermark(WatermarkConfig(2, 16, "0" * 32), np.tile(np.arange(16), (2, 1)))
  bundle = dataclasses.replace(miniature_bundle, watermark=mark)
  rows = {row.figure: row for row in watermark.run(bundle, options).rows}
  assert rows["payloads that are read exactly, 8 bits from 0.5 s, clean"].estimate.n == 1
  aac = rows["median -log10 p of marked samples, AAC at 64 kbit/s"]
  if degradations.aac_installed():
    assert aac.estimate.n == 1
  else:
    assert np.isnan(aac.estimate.value) and "AAC needs an extra" in aac.note


def test_a_clip_at_each_offset_is_encoded_once():
  codes = watermark.codes_of(CODEC, melody(1.0))
  assert codes.shape == (16, (RATE - 300) // 320, 2)
