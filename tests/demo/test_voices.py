"""Voices are read from the files of one folder only."""

import shutil

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.demo.voices import DEFAULT, read_voices
from tests.conftest import melody


@pytest.fixture
def folder(prompt, tmp_path):
  folder = tmp_path / "voices"
  folder.mkdir()
  shutil.copy(prompt, folder / "anna.wav")
  return folder


def test_the_beginning_of_each_recording_is_the_voice_of_its_name(folder):
  soundfile.write(folder / "old man.flac", melody(3.5), 8_000)
  soundfile.write(folder / ".hidden.wav", melody(1.0), 8_000)
  (folder / "notes.txt").write_text("anna: a friend")
  (folder / "more").mkdir()
  found = read_voices(folder)
  assert list(found) == [DEFAULT, "anna", "old man"]
  assert found[DEFAULT] == (None, None)
  assert {name: v.sample_rate for name, v in found.items()} | {DEFAULT: 0} == {
    DEFAULT: 0, "anna": 16_000, "old man": 8_000,
  }  # fmt: skip
  for name in ("anna", "old man"):
    waveform = found[name].waveform
    assert waveform is not None and waveform.shape == (24_000,)


def test_a_recording_can_replace_the_voice_that_is_drawn(folder):
  (folder / "anna.wav").rename(folder / "default.wav")
  found = read_voices(folder)
  assert list(found) == [DEFAULT] and found[DEFAULT].sample_rate == 16_000


def test_a_folder_that_cannot_be_used_is_reported(folder, prompt, tmp_path):
  with pytest.raises(UserError, match="none is not a folder"):
    read_voices(tmp_path / "none")
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"has no recording; put one of each voice into it"):
    read_voices(tmp_path / "empty")
  (folder / "secret.wav").symlink_to(prompt)
  with pytest.raises(UserError, match=r"secret\.wav is a link to a file of another folder"):
    read_voices(folder)
  (folder / "secret.wav").unlink()
  soundfile.write(folder / "quiet.wav", np.zeros(16_000), 16_000)
  with pytest.raises(UserError, match=r"quiet\.wav is silent"):
    read_voices(folder)
  (folder / "quiet.wav").unlink()
  soundfile.write(folder / "anna.flac", melody(1.0), 16_000)
  with pytest.raises(UserError, match="has several recordings named anna"):
    read_voices(folder)
