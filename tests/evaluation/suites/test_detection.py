import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.detection.detector import Detector
from audiolm_jax.evaluation.suites import detection
from audiolm_jax.trainables.detection_corpus import Pair
from tests.conftest import melody

RATE = 16_000


class Loudness(Detector):
  """Classifies loud pieces as synthetic."""

  def __init__(self):
    pass

  def score(self, pieces):
    return np.array([np.log(np.abs(p).max() / 0.25) for p in pieces])


def make_pairs(count=4, seconds=3.0, loud=0.5, quiet=0.1):
  def at(peak, seed):
    sound = melody(seconds, seed=seed)
    return peak * sound / np.abs(sound).max()

  return [
    Pair(at(quiet, i), at(quiet, i), at(quiet, i), np.stack([at(loud, i + 50), at(loud, i + 60)]))
    for i in range(count)
  ]


def test_the_suite_reports_each_condition():
  pairs = make_pairs()
  others = {"cousin": make_pairs(loud=0.2)}
  marked = make_pairs(loud=0.2)
  result = detection.detection_suite(
    Loudness(),
    pairs,
    RATE,
    others,
    marked=marked,
  )
  values = {row.figure: row.estimate for row in result.rows}
  assert values["accuracy, 1 s"].value == 1.0 and values["accuracy, 1 s"].n == 4
  assert values["equal error rate, 1 s"].value == 0.0
  assert values["recordings without the codec classified as real, 1 s"].value == 1.0
  assert values["samples of another bundle classified as synthetic, cousin, 1 s"].value == 0.0
  assert values["accuracy, 1 s, with the watermark"].value == 0.5
  assert {"accuracy, 0.5 s", "accuracy, 2 s", "accuracy, whole continuations"} <= set(values)
  assert "accuracy, 5 s" not in values  # nothing lasts so long
  assert values["accuracy, 1 s, MP3 at 24 kbit/s"].value > 0.9
  assert values["accuracy, 1 s, noise at 15 dB"].value > 0.5
  assert result.details["roc"][0]["found"].value == 1.0


def test_a_detector_that_guesses_has_chance_accuracy_within_a_wide_interval():
  class Guess(Loudness):
    def score(self, pieces):
      return np.random.default_rng(0).standard_normal(len(pieces))

  row = detection.detection_suite(Guess(), make_pairs(8), RATE).rows[0]
  assert row.estimate.low < 0.5 < row.estimate.high and row.verdict == "short"


def test_pairs_that_are_too_short_are_refused():
  with pytest.raises(DataError, match="no recording is a second longer"):
    detection.detection_suite(Loudness(), make_pairs(seconds=0.9), RATE)


def test_every_degradation_keeps_the_length_at_44100_hz():
  piece = np.resize(melody(1.0), 44_100)
  for name, degrade in detection._degradations(44_100).items():
    assert degrade(piece).shape == piece.shape, name
