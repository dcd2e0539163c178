import pytest

from audiolm_jax.evaluation.suites.speaker import speaker_suite
from tests.evaluation.conftest import VOICES


def test_figures_are_given_by_kind_of_sound(voice_classifier, voice):
  right = [(name, voice(*VOICES[name], seed=7, seconds=2.0)) for name in VOICES]
  swapped = [("low", right[2][1]), ("high", right[0][1])]
  result = speaker_suite(voice_classifier, {"codec": right, "resynthesis": swapped})
  values = {row.figure: row.estimate for row in result.rows}
  assert values["speaker found, among 3, codec"].value == 1.0
  assert values["speaker found, among 3, resynthesis"].value == 0.0
  assert values["chance"].value == pytest.approx(1 / 3)
