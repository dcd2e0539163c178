import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax.data.manifest import list_clips
from tests.conftest import melody

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
  return load_script("make_decoded_copies")


@pytest.fixture
def corpus(tmp_path):
  """Six training clips and a held-out clip; their source recording is no copy."""
  rows = []
  for i in range(7):
    soundfile.write(tmp_path / f"{i}.wav", melody(1.3, seed=i), 16_000)
    split = "valid" if i == 6 else "train"
    rows.append({"path": f"{i}.wav", "split": split, "text": f"Tune {i}.", "source_path": "0.wav"})
  path = tmp_path / "clips.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_copies_are_decoded_and_as_long_as_their_sources(
  corpus, tmp_path, miniature_bundle, script
):
  clips = list_clips(corpus)

  def make():
    return script.make_copies(tmp_path / "copies", clips, miniature_bundle, share=0.7, seed=0)

  rows = make()
  recordings, copies = rows[:7], rows[7:]
  assert [row["path"] for row in recordings] == [str(tmp_path / f"{i}.wav") for i in range(7)]
  assert not any("source_path" in row for row in recordings)
  assert 2 <= len(copies) <= 5 and {row["split"] for row in copies} == {"train"}
  for row in copies:
    source, _ = soundfile.read(row["source_path"], dtype="float32")
    copy, rate = soundfile.read(row["path"], dtype="float32")
    codes = miniature_bundle.codec.encode_long(source)
    expected = miniature_bundle.decode(codes)[: len(source)]  # it has four levels
    assert rate == 16_000 and row["text"].startswith("Tune ")
    np.testing.assert_allclose(copy, expected, atol=1e-3)

  # A stopped run resumes: only the missing copies are written.
  kept, lost = (Path(row["path"]) for row in (copies[0], copies[-1]))
  before = kept.stat().st_mtime_ns
  lost.unlink()
  assert make() == rows
  assert lost.exists() and kept.stat().st_mtime_ns == before


def test_the_command_names_missing_flags():
  command = [sys.executable, "launch/make_decoded_copies.py", "--bundle=speech"]
  env = os.environ | {"PYTHONPATH": str(REPO)}
  done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and "--manifest is needed" in done.stderr
