import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.data import manifest

REPO = Path(__file__).parents[2]
# A tone of the voice's pitch, 30 ms for each letter; texts with "unspeakable" make none.
TONE = """
import array, math, os, sys, time, wave
wav, pitch, text = sys.argv[1], float(sys.argv[2]), sys.stdin.read().strip()
time.sleep(float(os.environ.get("TONE_SLEEP", "0")))
if "unspeakable" in text:
  sys.exit("no such word")
tone = (int(9000 * math.sin(math.tau * pitch * i / 8000)) for i in range(240 * len(text)))
with wave.open(wav, "wb") as file:
  file.setparams((1, 2, 8000, 0, "NONE", ""))
  file.writeframes(array.array("h", tone).tobytes())
"""
SETTINGS = (
  *("--voices=tone:200,tone:300,tone:400,tone:500", "--valid_voices=tone:400,tone:600"),
  *("--voices_per_sentence=2", "--speeds=0.94,1.06", "--probe_sentences=1", "--hours=0.015"),
  *("--text_licence=CC0", "--voice_licence=MIT"),
)


class Corpus:
  """Runs the script with texts and a synthesizer of this test's."""

  def __init__(self, folder):
    self.folder = folder
    self.text, self.held_out = folder / "text.tsv", folder / "held_out.txt"
    (folder / "tone.py").write_text(TONE)
    sentences = [f"s{i:02d}\tThis is number {i} of some." for i in range(28)]
    self.text.write_text("\n".join([*sentences, "a\tHeld: out!", "b\tOthers, as they come."]))
    self.held_out.write_text(
      "Held out.\n\nThis is a sentence that only probes will have.\nNew one.\n"
    )

  def command(self, output, *flags):
    engine = f"{sys.executable} -SE {shlex.quote(str(self.folder / 'tone.py'))} {{wav}} {{voice}}"
    files = (f"--text={self.text}", f"--valid_text={self.held_out}", f"--output_dir={output}")
    script = REPO / "launch" / "make_speech_corpus.py"
    return [sys.executable, str(script), *files, f"--engine_command=tone={engine}", *flags]

  def environment(self, sleep=0.0):
    return os.environ | {"PYTHONPATH": str(REPO), "TONE_SLEEP": str(sleep)}

  def make(self, output, *flags):
    command, environment = self.command(output, *flags), self.environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def rows_of(folder):
  return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def contents(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  return Corpus(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def made(corpus):
  """A corpus with all settings, by two commands side by side."""
  output = corpus.folder / "made"
  done = corpus.make(output, *SETTINGS, "--jobs=2")
  assert done.returncode == 0, done.stderr
  assert "0 of" in done.stdout.splitlines()[-1]
  return output


def test_the_manifest_describes_each_clip(made):
  rows = {row["path"]: row for row in rows_of(made)}
  clips = manifest.list_clips(made / "manifest.jsonl")
  assert {clip.id for clip in clips} == set(rows)
  assert {p.relative_to(made).as_posix() for p in made.rglob("*.flac")} == set(rows)
  for clip in clips:
    row = rows[clip.id]
    waveform, rate = soundfile.read(clip.path)
    assert rate == 16_000 and len(waveform) / rate == pytest.approx(row["seconds"], abs=1e-3)
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=1e-3)
    name, _, speed = row["speaker"].partition(" x")
    pitch = np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform)
    expected = float(name.removeprefix("tone-")) * float(speed or 1)
    assert pitch == pytest.approx(expected, abs=2), row
    assert row["seconds"] == pytest.approx(0.03 * len(row["text"]) / float(speed or 1), abs=0.01)
    assert (row["licence"], row["source"]) == ("text CC0; voice MIT", f"tone {name[5:]}")


def test_training_shares_neither_voices_nor_sentences_with_the_other_splits(made):
  voices, texts, seconds = defaultdict(set), defaultdict(set), defaultdict(float)
  for row in rows_of(made):
    voices[row["split"]].add(row["speaker"].partition(" x")[0])
    texts[row["split"]].add(row["text"])
    seconds[row["split"]] += row["seconds"]
  assert voices["train"] == {"tone-200", "tone-300", "tone-500"}
  assert voices["valid"] == {"tone-400", "tone-600"}
  assert voices["probe"] == voices["train"] | voices["valid"]
  assert texts["probe"] == {"This is a sentence that only probes will have."}
  spoken = " ".join(texts["train"])
  assert "Held" not in spoken and "number 27" in spoken and "Others, as they come." in spoken
  assert "Held out." in " ".join(texts["valid"]) and "New one." in " ".join(texts["valid"])
  assert not texts["valid"] & (texts["train"] | texts["probe"])
  # The text is read again until the hours are full, which one clip may exceed.
  assert 54.0 <= seconds["train"] < 54.0 + 4.0


def test_the_same_sentence_is_spoken_by_several_voices(made):
  by_clip = defaultdict(list)
  for row in rows_of(made):
    if row["split"] == "train":
      by_clip[row["sentence"], row["path"][-6]].append(row)
  sizes = sorted(len(rows) for rows in by_clip.values())
  assert sizes[1:] == [2] * (len(sizes) - 1) and sizes[0] >= 1  # the last may be cut by --hours
  for rows in by_clip.values():
    assert len({row["text"] for row in rows}) == 1
    assert len({row["speaker"].partition(" x")[0] for row in rows}) == len(rows)


def test_a_killed_run_continues_and_equals_an_uninterrupted_one(corpus, made):
  output = corpus.folder / "killed"
  command = corpus.command(output, *SETTINGS)
  run = subprocess.Popen(command, env=corpus.environment(sleep=0.05), stdout=subprocess.DEVNULL)
  deadline = time.monotonic() + 300
  while len(list(output.rglob("*.flac"))) < 8:
    assert run.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  run.send_signal(signal.SIGKILL)
  run.wait()
  finished = {path: path.stat().st_mtime_ns for path in output.rglob("*.flac")}
  assert not (output / "manifest.jsonl").exists() and len(finished) < len(rows_of(made))
  done = corpus.make(output, *SETTINGS)
  assert done.returncode == 0, done.stderr
  assert {path: path.stat().st_mtime_ns for path in finished} == finished
  assert contents(output) == contents(made)


def test_a_folder_of_other_settings_is_refused(corpus, made):
  before = contents(made)
  done = corpus.make(made, *SETTINGS, "--seed=1", "--max_sentences=1")
  assert done.returncode == 2
  assert "created with other settings: --max_sentences, --seed;" in done.stderr
  assert contents(made) == before


def test_sentences_that_fail_are_reported_and_end_the_run_past_a_limit(corpus, tmp_path):
  text = tmp_path / "text.txt"
  text.write_text("".join(f"{'unspeakable' * (i < 7)} sentence {i}\n" for i in range(40)))
  flags = ("--voices=tone:300", f"--text={text}", "--max_sentences=1", "--hours=0.002")
  done = corpus.make(tmp_path / "some", *flags, "--max_failed_fraction=0.5")
  assert done.returncode == 0, done.stderr
  skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped ")]
  texts = [row["text"] for row in rows_of(tmp_path / "some") if row["split"] == "train"]
  assert skipped and not any("unspeakable" in text for text in texts) and len(texts) > 10
  assert f"{len(skipped)} of {len(skipped) + len(rows_of(tmp_path / 'some'))} clips failed" in (
    done.stdout
  )
  assert "line000" in skipped[0] and skipped[0].endswith("(exit code 1): no such word")
  text.write_text("".join(f"unspeakable sentence {i}\n" for i in range(40)))
  done = corpus.make(tmp_path / "none", *flags, "--valid_fraction=0", "--valid_text=")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 6
  assert done.stderr.splitlines()[-1].startswith("error: 6 of 6 clips failed, the last one line0")


@pytest.mark.parametrize(
  ("flags", "reason"),
  [
    (["--voices=nobody:anna"], "'nobody:anna' is not an engine; the engines are hibari, flite"),
    (["--voices=tone:1", "--text=/no/such/file"], "cannot read /no/such/file"),
    (["--voices=tone:1", "--output_dir=/proc/corpus"], "cannot create the folder /proc/corpus"),
    (["--voices=tone:1", "--speeds=0.9"], "--speeds=0.9 must be numbers from 0.92 to 1.08"),
    (["--voices=tone:1", "--voices_per_sentence=2"], "is more than the 1 voices"),
  ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(corpus, tmp_path, flags, reason):
  done = corpus.make(tmp_path / "out", *flags)
  assert done.returncode == 2 and reason in done.stderr
  assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
  assert not (tmp_path / "out").exists()


def test_without_a_list_the_held_out_sentences_are_drawn_by_their_words(load_script):
  script = load_script("make_speech_corpus")
  texts = [f"Sentence number {i}" for i in range(200)]
  sentences = [script.Passage(str(i), f"{text}.") for i, text in enumerate([*texts, *texts])]
  train, valid = script.split_sentences(sentences, [], 0.2)
  assert sorted([*train, *valid], key=lambda s: int(s.id)) == sentences
  drawn = {sentence.text for sentence in valid}
  assert 20 < len(drawn) < 60 and len(valid) == 2 * len(drawn)
  assert not drawn & {sentence.text for sentence in train}
  others = [script.Passage(f"b{i}", f"{text.upper()}!") for i, text in enumerate(texts[:50])]
  _, again = script.split_sentences(others, [], 0.2)
  assert {s.text for s in again} == {f"{t.upper()}!" for t in texts[:50] if f"{t}." in drawn}
  assert len(script.split_sentences(sentences[:2], [], 1e-9)[1]) == 1
  assert script.split_sentences(sentences, [], 0.0) == (sentences, [])


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"a\tOne.\na\tTwo.\n", "line 2: the id 'a' is not unique"),
    (b"\n \n", "has no sentences"),
    (b"\xff\xfe", "cannot read .*give a UTF-8 text file"),
  ],
)
def test_texts_that_cannot_be_used_are_refused(load_script, tmp_path, content, reason):
  (tmp_path / "text").write_bytes(content)
  with pytest.raises(UserError, match=reason):
    load_script("make_speech_corpus").read_sentences(tmp_path / "text")


def test_hibari_speaks_a_corpus(corpus, tmp_path):
  if not shutil.which("hibari"):
    pytest.skip("hibari-tts is not installed")
  flags = ("--voices=hibari", "--max_sentences=1", "--hours=0.0001", "--valid_hours=0")
  done = corpus.make(tmp_path / "out", *flags)
  assert done.returncode == 0, done.stderr
  (row,) = rows_of(tmp_path / "out")
  assert row["speaker"] == "hibari-heart" and "Apache-2.0" in row["licence"]
  assert 0.8 < row["seconds"] < 8.0
