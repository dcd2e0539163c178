import dataclasses
import json

import numpy as np
import pytest
import soundfile

from audiolm_jax import bundles
from audiolm_jax.io import audio
from audiolm_jax.io.provenance import Provenance
from tests.conftest import melody, noise

RATE = 16_000


@pytest.fixture(scope="module")
def bundle(miniature_bundle, detector, tmp_path_factory):
  with_detector = dataclasses.replace(miniature_bundle, detector=detector)
  return bundles.save_bundle(with_detector, tmp_path_factory.mktemp("bundles") / "mini")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  """A folder with a melody, noise at another rate, and a melody that says that it was made."""
  folder = tmp_path_factory.mktemp("sounds")
  audio.write_audio(folder / "melody.wav", melody(12.3), RATE)
  (folder / "deep").mkdir()
  soundfile.write(folder / "deep" / "noise.flac", noise(2.0), RATE)
  tags = Provenance("speech_tiny", "0123", "continuation", 7, 0, 3.0, "codec").tags()
  audio.write_audio(folder / "said.wav", melody(2.0, seed=5), RATE, tags)
  return folder


def test_a_recording_gives_a_probability_for_each_second_and_exit_code_0(run_cli, bundle, sounds):
  done = run_cli("detect", f"--bundle={bundle}", sounds / "melody.wav")
  assert done.code == 0, done.err
  first, *seconds = done.out.splitlines()
  assert first.startswith(f"{sounds / 'melody.wav'}: 0.") and first.endswith(" real")
  assert [line.split()[0] for line in seconds] == ["0:00", "0:10"]
  assert sum(len(line.split()) - 1 for line in seconds) == 13


def test_folders_are_searched_and_something_synthetic_gives_exit_code_1(run_cli, bundle, sounds):
  done = run_cli("detect", f"--bundle={bundle}", sounds)
  assert done.code == 1, done.err
  lines = {line.split(":")[0].rsplit("/")[-1]: line for line in done.out.splitlines()}
  assert lines["noise.flac"].endswith(" synthetic")
  assert lines["said.wav"].endswith("synthetic; it says so itself: speech_tiny, seed 7")
  assert lines["melody.wav"].endswith(" real")


def test_json_is_one_array_with_an_object_for_each_file(run_cli, bundle, sounds):
  done = run_cli("detect", f"--bundle={bundle}", "--json", sounds)
  found = {entry["file"].rsplit("/")[-1]: entry for entry in json.loads(done.out)}
  assert done.code == 1 and set(found) == {"melody.wav", "noise.flac", "said.wav"}
  assert found["noise.flac"]["probability_synthetic"] > 0.5
  assert len(found["melody.wav"]["per_second"]) == 13 and found["melody.wav"]["says"] is None
  assert found["said.wav"]["says"] == {"bundle": "speech_tiny", "seed": 7}
  assert found["said.wav"]["probability_synthetic"] < 0.5  # what is heard stays what is heard


def test_the_threshold_decides(run_cli, bundle, sounds):
  path = sounds / "deep" / "noise.flac"
  assert run_cli("detect", f"--bundle={bundle}", "--threshold=1", path).code == 0
  assert run_cli("detect", f"--bundle={bundle}", "--threshold=0", sounds / "melody.wav").code == 1


def test_files_that_cannot_be_judged_are_told_and_the_others_are(run_cli, bundle, sounds, tmp_path):
  (tmp_path / "bad.wav").write_bytes(b"not sound")
  soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
  paths = [tmp_path / "bad.wav", tmp_path / "gone.wav", tmp_path / "silent.wav"]
  done = run_cli("detect", f"--bundle={bundle}", *paths, sounds / "melody.wav")
  assert done.code == 2 and "melody.wav: 0." in done.out
  for path in paths:
    assert f"error: {path}" in done.err
  assert "3 of 4 files cannot be judged" in done.err
  entries = json.loads(run_cli("detect", f"--bundle={bundle}", "--json", *paths).out)
  assert ["silent" in entry["error"] for entry in entries] == [False, False, True]


def test_what_is_missing_is_said(run_cli, miniature_bundle, sounds, tmp_path):
  assert "give files or folders" in run_cli("detect").err
  bare = bundles.save_bundle(miniature_bundle, tmp_path / "bare")
  done = run_cli("detect", f"--bundle={bare}", sounds)
  assert done.code == 2 and "has no detector" in done.err
  (tmp_path / "empty").mkdir()
  assert "holds no files of sound" in run_cli("detect", tmp_path / "empty").err
