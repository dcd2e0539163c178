import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).parents[2] / "launch" / "make_speed_copies.py"


def make_copies(manifest, folder, *arguments):
  command = [sys.executable, SCRIPT, f"--manifest={manifest}", f"--output_dir={folder}", *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def strongest_frequency(waveform, rate):
  return np.argmax(np.abs(np.fft.rfft(waveform))) * rate / len(waveform)


@pytest.fixture
def corpus(tmp_path):
  """A second of 440 Hz to train on, at 48 kHz in stereo, and a clip that is held out."""
  tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
  soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], axis=1), 48000)
  soundfile.write(tmp_path / "other.wav", tone, 48000)
  rows = [
    {
      **{"path": "tone.wav", "split": "train", "speaker": "anna", "licence": "CC0"},
      "source_path": "other.wav",
    },
    {"path": "other.wav", "split": "valid", "speaker": "bert"},
  ]
  path = tmp_path / "manifest.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_copies_are_shorter_and_higher_voices_of_the_training_clips(corpus, tmp_path):
  done = make_copies(corpus, tmp_path / "copies", "--speeds=0.8,1.25")
  assert done.returncode == 0, done.stderr
  lines = (tmp_path / "copies" / "manifest.jsonl").read_text().splitlines()
  rows = {row["speaker"]: row for row in map(json.loads, lines)}
  assert set(rows) == {"anna x0.8", "anna x1.25"}
  for name, speed in (("anna x0.8", 0.8), ("anna x1.25", 1.25)):
    row = rows[name]
    waveform, rate = soundfile.read(row["path"])
    assert (rate, row["split"], row["licence"]) == (16000, "train", "CC0")
    assert row["source_path"] == str(corpus.with_name("other.wav"))
    assert len(waveform) == pytest.approx(16000 / speed, abs=2)
    assert row["seconds"] == pytest.approx(1 / speed, abs=1e-3)
    assert strongest_frequency(waveform, rate) == pytest.approx(440 * speed, abs=2)
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("speeds", ["1", "3", "0.1"])
def test_speeds_that_make_no_other_voice_are_refused(corpus, tmp_path, speeds):
  done = make_copies(corpus, tmp_path / "copies", f"--speeds={speeds}")
  assert done.returncode == 1 and done.stderr.startswith("error: --speeds"), done.stderr
  assert not (tmp_path / "copies").exists()


def test_a_manifest_without_splits_is_refused(corpus, tmp_path):
  rows = [json.loads(row) for row in corpus.read_text().splitlines()]
  corpus.write_text("".join(json.dumps({"path": row["path"]}) + "\n" for row in rows))
  done = make_copies(corpus, tmp_path / "copies", "--speeds=0.8")
  assert done.returncode == 1 and "has no splits" in done.stderr


def test_existing_copies_are_not_overwritten(corpus, tmp_path):
  assert make_copies(corpus, tmp_path / "copies", "--speeds=1.1").returncode == 0
  done = make_copies(corpus, tmp_path / "copies", "--speeds=0.9")
  assert done.returncode == 1 and "already exists" in done.stderr
