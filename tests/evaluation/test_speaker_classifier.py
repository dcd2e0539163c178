import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation import speaker_classifier
from tests.evaluation.conftest import VOICES


def test_voices_are_identified_on_new_clips(voice_classifier, voice):
  assert (
    voice_classifier.speakers == ("high", "low", "middle")
    and voice_classifier.config.num_classes == 3
  )
  for name, (pitch, formant) in VOICES.items():
    assert voice_classifier.identify(voice(pitch, formant, seed=9, seconds=2.3)) == name
  silence = np.zeros(16_000, np.float32)
  assert voice_classifier.identify(silence) in voice_classifier.speakers


def test_too_few_speakers_or_seconds_are_refused(voice):
  clip = voice(*VOICES["low"], seed=0)
  with pytest.raises(DataError, match="1 speakers are given"):
    speaker_classifier.fit_speaker_classifier([clip], ["a"])
  with pytest.raises(DataError, match="speaker b has no clip of 1 s"):
    speaker_classifier.fit_speaker_classifier([clip, clip[:100]], ["a", "b"])
