import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation import speaker_classifier
from tests.evaluation.conftest import VOICES


def test_voices_are_told_apart_on_clips_never_heard(voice_classifier, voice):
  assert (
    voice_classifier.speakers == ("high", "low", "middle")
    and voice_classifier.config.num_classes == 3
  )
  for name, (pitch, formant) in VOICES.items():
    assert voice_classifier.identify(voice(pitch, formant, seed=9, seconds=2.3)) == name
  silence = np.zeros(16_000, np.float32)
  assert voice_classifier.identify(silence) in voice_classifier.speakers


def test_what_cannot_be_learned_from_is_refused(voice):
  clip = voice(*VOICES["low"], seed=0)
  with pytest.raises(DataError, match="1 speakers are given"):
    speaker_classifier.fit_speaker_classifier([clip], ["a"])
  with pytest.raises(DataError, match="no clip of speaker b lasts a second"):
    speaker_classifier.fit_speaker_classifier([clip, clip[:100]], ["a", "b"])
