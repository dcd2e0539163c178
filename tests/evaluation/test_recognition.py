import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from audiolm_jax.errors import UserError
from audiolm_jax.evaluation import recognition
from audiolm_jax.evaluation.recognition import character_errors, word_errors

RATE = 16_000


def test_words_are_compared_without_case_and_punctuation():
  assert recognition.normalised_words("The King's-Bench, 1840; it\u2019s") == [
    *("the", "king's", "bench", "1840", "it's"),
  ]
  assert word_errors("The king's bench.", "the kings bench") == (1, 3)
  assert word_errors("one two three", "one three four five") == (3, 3)
  assert word_errors("one", "") == (1, 1)


def test_characters_are_compared_with_the_spaces_between_words():
  assert character_errors("New gate", "Newgate!") == (1, 8)
  assert character_errors("a b", "a b") == (0, 3)


def test_a_recognizer_that_is_not_there_is_named():
  with pytest.raises(UserError, match="--asr_model no/such"):
    recognition.TransformersRecognizer("no/such")


def test_pocketsphinx_hears_the_words_of_a_synthetic_voice_and_forgets_them(tmp_path):
  pytest.importorskip("pocketsphinx")
  if not shutil.which("flite"):
    pytest.skip("no flite to speak")
  path = tmp_path / "spoken.wav"
  subprocess.run(["flite", "-voice", "slt", "-t", "go forward ten meters", "-o", path], check=True)
  waveform, rate = soundfile.read(path, dtype="float32")
  recognizer = recognition.PocketSphinx()
  assert word_errors("go forward ten meters", recognizer.transcribe(waveform, rate)).errors <= 1
  silence = recognizer.transcribe(np.zeros(RATE, np.float32), RATE)
  assert word_errors("go forward ten meters", silence).errors == 4
