import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import recognition
from audiolm_jax.evaluation.recognition import character_errors, word_errors

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 16_000
# A Whisper model in the format of CTranslate2.
WHISPER = Path(os.environ.get("WHISPER_DIR", "no WHISPER_DIR is given"))
needs_whisper = pytest.mark.skipif(
  not (importlib.util.find_spec("faster_whisper") and WHISPER.is_dir()),
  reason="faster-whisper or the folder WHISPER_DIR with a model is not there",
)


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


def test_without_its_package_whisper_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "faster_whisper", None)
  with pytest.raises(UserError, match=r"--asr_model base.*requirements/evaluation\.txt"):
    recognition.Whisper("base")


@needs_whisper
def test_a_folder_without_a_whisper_model_is_named(tmp_path):
  with pytest.raises(UserError, match=f"--asr_model {tmp_path} is no Whisper model"):
    recognition.Whisper(str(tmp_path))


@needs_whisper
def test_whisper_finds_the_words_of_a_synthetic_voice_and_spells_numbers_in_one_way():
  recognizer = recognition.Whisper(str(WHISPER))
  found = recognizer.transcribe(*soundfile.read(EXAMPLES / "speech_woman.flac", dtype="float32"))
  text = "The ferry left the harbor before sunrise and on the upper deck a"  # the clip ends here
  assert word_errors(recognizer.normalise(text), recognizer.normalise(found)).errors <= 2
  phrases = recognizer.phrases(*soundfile.read(EXAMPLES / "speech_woman.flac", dtype="float32"))
  assert recognition.text_of(phrases) == found and 0.5 < phrases[0].probability < 1
  assert recognizer.normalise("Ten metres.") == recognizer.normalise("10 meters")
  assert recognizer.name.startswith(f"Whisper {WHISPER.name}, faster-whisper ")


def test_pocketsphinx_recognizes_a_synthetic_voice_and_keeps_no_state(tmp_path):
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
