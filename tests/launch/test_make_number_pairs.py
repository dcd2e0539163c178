"""Pairs of recordings of values: their rows, splits and voices, and runs that are resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiolm_jax.data import manifest, spoken_values

REPO = Path(__file__).parents[2]
# A tone of the voice's pitch, 20 ms for each letter.
TONE = """
import array, math, sys, wave
wav, pitch, text = sys.argv[1], float(sys.argv[2]), sys.stdin.read().strip()
if pitch == 666:
  sys.exit("no such voice")
tone = (int(9000 * math.sin(math.tau * pitch * i / 8000)) for i in range(160 * len(text)))
with wave.open(wav, "wb") as file:
  file.setparams((1, 2, 8000, 0, "NONE", ""))
  file.writeframes(array.array("h", tone).tobytes())
"""
VOICES = ("--english_voices=tone:200,tone:300", "--spanish_voices=tone:400")


def make_pairs(folder, *arguments):
  program = folder.parent / "tone.py"
  program.write_text(TONE)
  command = f"tone={sys.executable} -S {program} {{wav}} {{voice}}"
  return subprocess.run(
    [
      *(sys.executable, "launch/make_number_pairs.py", f"--output_dir={folder}"),
      *(f"--engine_command={command}", "--valid_pairs=2", "--jobs=2", *arguments),
    ],
    cwd=REPO,
    env=os.environ | {"PYTHONPATH": str(REPO)},
    capture_output=True,
    text=True,
    check=False,
  )


def rows_of(folder):
  return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_each_pair_is_a_translation_with_its_source(tmp_path):
  folder = tmp_path / "pairs"
  more = ("--pairs=4", "--valid_english_voices=tone:500", "--voice_licence=MIT")
  done = make_pairs(folder, *VOICES, *more)
  assert done.returncode == 0, done.stderr
  assert "manifest.jsonl: 6 pairs, 0.0" in done.stdout
  rows = rows_of(folder)
  sources = {row["path"]: row for row in rows if "source_path" not in row}
  targets = [row for row in rows if "source_path" in row]
  assert len(sources) == len(targets) == 6
  by_id = {value.id: value for value in spoken_values.values()}
  for target in targets:
    source, value = sources[target["source_path"]], by_id[target["value"]]
    assert spoken_values.of_spanish(target["text"]) == value
    words = spoken_values.english(value)
    assert source["text"].lower().rstrip(".") == words.lower().rstrip(".")
    assert (source["split"], source["value"]) == (target["split"], target["value"])
    assert value.is_held_out(0.05) == (target["split"] == "valid")
    assert target["speaker"] == "tone-400"
    valid = {"tone-500"}
    assert source["speaker"] in (valid if target["split"] == "valid" else {"tone-200", "tone-300"})
    assert target["licence"] == "voice MIT" and target["seconds"] > 0.2
  clips = {clip.id: clip for clip in manifest.list_clips(folder / "manifest.jsonl")}
  assert clips[targets[0]["path"]].source_path == str(folder / targets[0]["source_path"])

  times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}
  assert make_pairs(folder, *VOICES, *more, "--pairs=5").returncode == 0
  assert rows_of(folder)[:8] == rows[:8] and len(rows_of(folder)) == 14
  assert {path: path.stat().st_mtime_ns for path in times} == times
  done = make_pairs(folder, *VOICES, *more, "--seed=1")
  assert done.returncode == 2 and "was created with other settings: --seed" in done.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--spanish_voices=tone:400",), "--english_voices is needed"),
    ((*VOICES, "--valid_english_voices=tone:200,tone:300"), "holds out all of --english_voices"),
    (("--english_voices=tone:200", "--spanish_voices=tone:666", "--pairs=3"), "no such voice"),
  ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, tmp_path):
  done = make_pairs(tmp_path / "pairs", *arguments)
  assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
  assert not (tmp_path / "pairs" / "manifest.jsonl").exists()
