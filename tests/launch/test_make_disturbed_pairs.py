"""Pairs of disturbed and clean recordings: rows, links, splits, and runs that are resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.data import manifest
from audiolm_jax.io import audio

REPO = Path(__file__).parents[2]
RATE = 16_000


@pytest.fixture(scope="module")
def script(load_script):
  return load_script("make_disturbed_pairs")


@pytest.fixture
def source(tmp_path):
  """A manifest of three tones of half a second, the last one held out."""
  rows = []
  for number, split in enumerate(("train", "train", "valid")):
    folder = tmp_path / "speech" / f"reader{number}"
    folder.mkdir(parents=True)
    time = np.arange(24_000) / 48_000
    soundfile.write(folder / "a.wav", 0.2 * np.sin(300 * np.pi * (number + 1) * time), 48_000)
    rows.append({"path": f"reader{number}/a.wav", "split": split, "speaker": f"r{number}"})
  rows[0]["text"] = "Good morning."
  path = tmp_path / "speech" / "manifest.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


@pytest.fixture
def clip(source):
  return manifest.list_clips(source)[0]


@pytest.fixture
def noises(tmp_path):
  """Noises of a fifth of a second, of which the last one is held out."""
  rng = np.random.default_rng(0)
  found = []
  for number, split in enumerate(("train", "train", "valid")):
    path = tmp_path / f"noise{number}.wav"
    soundfile.write(path, 0.1 * rng.standard_normal(3_200), RATE)
    found.append(manifest.AudioClip(path.name, str(path), split))
  return found


def run(source, folder, *arguments):
  command = [sys.executable, "launch/make_disturbed_pairs.py", f"--source={source}"]
  return subprocess.run(
    [*command, f"--output_dir={folder}", "--jobs=2", *arguments],
    cwd=REPO,
    env=os.environ | {"PYTHONPATH": str(REPO)},
    capture_output=True,
    text=True,
    check=False,
  )


def times(folder):
  return {path: path.lstat().st_mtime_ns for path in folder.rglob("*.[fw]*a*")}


def test_a_stopped_run_is_resumed_to_the_same_pairs(script, source, tmp_path):
  folder = tmp_path / "pairs"
  kinds = ("whispered", "noisy")  # without the time in which librosa is imported
  done = run(source, folder, f"--kinds={','.join(kinds)}")
  assert done.returncode == 0 and "6 pairs, 0.00 h of clean speech" in done.stdout, done.stderr
  content = (folder / "manifest.jsonl").read_text()
  rows = [json.loads(line) for line in content.splitlines()]
  assert [row["split"] for row in rows] == 4 * ["train"] + 2 * ["valid"]
  assert [row["disturbance"]["kind"] for row in rows] == 3 * [*kinds]
  assert {row["speaker"] for row in rows[:2]} == {"r0"} and rows[1]["text"] == "Good morning."
  clips = {clip.id: clip for clip in manifest.list_clips(folder / "manifest.jsonl")}
  for row in rows:
    clean = source.parent / f"reader{row['speaker'][1]}" / "a.wav"
    assert (folder / row["path"]).resolve() == clean and row["seconds"] == 0.5
    assert clips[row["path"]].source_path == str(folder / row["source_path"])

  lost = folder / rows[3]["source_path"]
  sound = lost.read_bytes()
  lost.unlink()
  before = times(folder)
  clips, failed = manifest.list_clips(source), manifest.SkipLog(3)
  assert script.make_pairs(folder, clips, kinds, script.Settings(), failed, jobs=1) == rows
  assert lost.read_bytes() == sound
  changed = {path for path, time in times(folder).items() if before.get(path) != time}
  assert changed == {lost, folder / rows[3]["path"]}


def test_unusable_recordings_are_skipped_and_counted(script, source, tmp_path):
  (source.parent / "reader1" / "a.wav").write_bytes(b"no sound")
  failed = manifest.SkipLog(3, 0.5)
  clips = manifest.list_clips(source)
  rows = script.make_pairs(tmp_path, clips, ("noisy",), script.Settings(), failed, jobs=2)
  assert {row["speaker"] for row in rows} == {"r0", "r2"}
  assert "1 of 3 clips skipped: reader1/a.wav" in failed.report()


@pytest.mark.parametrize("given", [[], ["sung"], ["fast", "Noisy"]])
def test_unknown_kinds_are_one_line(script, given):
  with pytest.raises(UserError, match=r"--kinds=.* must name some of whispered, fast, noisy"):
    script.kinds_of(given)


@pytest.mark.parametrize("given", [["2"], ["a", "b"], ["1.8", "1.3"], ["0.5", "2"], ["2", "nan"]])
def test_a_range_that_cannot_be_used_is_one_line(script, given):
  with pytest.raises(UserError, match=r"--speeds=.* must be two rising numbers from 1 to 4"):
    script.range_of("speeds", given, 1.0, 4.0)


def made(script, clip, folder, kind, **settings):
  """A pair's row, clean recording and disturbed one."""
  row = script.make_pair(folder, clip, kind, script.Settings(**settings))
  return row, *(audio.load_audio(folder / row[name], RATE) for name in ("path", "source_path"))


def test_the_disturbances_are_those_of_the_row(script, clip, tmp_path):
  row, clean, fast = made(script, clip, tmp_path, "fast")
  factor = row["disturbance"]["factor"]
  assert 1.3 <= factor <= 1.8 and len(fast) == pytest.approx(len(clean) / factor, abs=1)
  row, clean, noisy = made(script, clip, tmp_path, "noisy")
  assert 0 <= row["disturbance"]["noise"] <= 2
  assert snr(clean, noisy) == pytest.approx(row["disturbance"]["snr_db"], abs=0.5)


def snr(clean, noisy):
  """The ratio of powers in dB, whatever the level of the sum."""
  speech = np.dot(noisy, clean) / np.dot(clean, clean) * clean
  return 10 * np.log10(np.mean(speech**2) / np.mean((noisy - speech) ** 2))


def test_a_pair_depends_on_its_recording_and_the_seed_only(script, clip, tmp_path):
  def disturbed(name, **settings):
    folder = tmp_path / name
    return [made(script, clip, folder, kind, **settings)[2] for kind in script.KINDS]

  first, again, other = disturbed("a"), disturbed("b"), disturbed("c", seed=1)
  for one, same, changed in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(one, same)
    assert len(one) != len(changed) or np.abs(one - changed).max() > 0.01


def test_held_out_recordings_have_held_out_noise(script, source, noises, tmp_path):
  for clip in manifest.list_clips(source):
    for seed in range(4):
      folder = tmp_path / f"{seed}"
      row, clean, noisy = made(script, clip, folder, "noisy", noises=noises, seed=seed, snr=(7, 7))
      held_out = row["disturbance"]["noise"] == "noise2.wav"
      assert held_out == (clip.split == "valid")
      assert snr(clean, noisy) == pytest.approx(7, abs=0.5)


def test_a_recording_that_is_too_long_is_refused(script, clip, tmp_path):
  with pytest.raises(AudioError, match=r"longer than --longest_seconds=0.3; cut it"):
    made(script, clip, tmp_path, "fast", longest_seconds=0.3)
  assert not [*tmp_path.rglob("*.flac")]
