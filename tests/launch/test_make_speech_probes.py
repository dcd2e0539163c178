import json
import random
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import soundfile

from audiolm_jax.evaluation import abx, pairs
from tests.conftest import melody

SCRIPT = Path(__file__).parents[2] / "launch" / "make_speech_probes.py"


@pytest.fixture(scope="module")
def script(load_script):
  return load_script("make_speech_probes")


def test_items_are_phones_between_phones_in_the_libri_light_format(script, tmp_path):
  phones = [("pau", 0.1), ("b", 0.2), ("eh", 0.35), ("s", 0.5), ("t", 0.6), ("pau", 0.9)]
  lines = list(script.items("f", "slt", phones))
  path = tmp_path / "abx.item"
  path.write_text("\n".join(["#file onset offset #phone prev-phone next-phone speaker", *lines]))
  assert abx.read_items(path) == [
    abx.PhoneItem("f", 0.2, 0.35, "eh", ("b", "s"), "slt"),
    abx.PhoneItem("f", 0.35, 0.5, "s", ("eh", "t"), "slt"),
  ]


def test_a_non_word_differs_by_its_first_consonant_and_is_not_known(script):
  rng = random.Random(0)
  known = {script.non_word("prison", set(), rng), "debtor", "fetters"}
  assert known == {None, "debtor", "fetters"}  # no vowel follows the first letter
  other = script.non_word("debtor", {"debtor", "letters"}, rng)
  assert other[1:] == "ebtor" and other != "debtor"
  everything = {c + "ebtor" for c in script.CONSONANTS}
  assert script.non_word("debtor", everything, rng) is None


def test_what_is_made_can_be_read_by_the_suites(tmp_path):
  if not shutil.which("flite"):
    pytest.skip("no flite to speak")
  text = tmp_path / "text.tsv"
  text.write_text("a\tdebtors were fetched\nb\tthe best table\nc\tletters in boxes\n")
  rows = []
  for i in range(2):
    soundfile.write(tmp_path / f"{i}.wav", melody(1.2, seed=i), 16_000)
    rows.append({"path": f"{i}.wav", "speaker": f"s{i}", "split": "valid"})
  (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  options = ("--sentences=2", "--words=1", "--seconds=0.5", f"--recordings={tmp_path / 'm.jsonl'}")
  command = [sys.executable, SCRIPT, f"--text={text}", f"--output_dir={tmp_path / 'out'}", *options]
  subprocess.run(command, check=True, capture_output=True)
  found = pairs.read_pairs(tmp_path / "out" / "pairs.jsonl")
  assert [pair.categories[0] for pair in found] == ["word"] * 4 + ["speaker"] * 2
  items = abx.read_items(tmp_path / "out" / "abx.item")
  assert {item.speaker for item in items} == {"slt", "rms", "awb", "kal16"}
  for item in items:
    sound = soundfile.info(tmp_path / "out" / "abx" / f"{item.file}.wav")
    assert 0 < item.onset < item.offset < sound.duration


@pytest.mark.parametrize("num_speakers", [0, 1, 2])
def test_a_change_of_speaker_needs_two_speakers(script, tmp_path, monkeypatch, num_speakers):
  monkeypatch.setattr(script, "FLAGS", types.SimpleNamespace(seconds=0.5))
  rows = [{"path": "short.wav", "speaker": "short", "split": "valid"}]
  soundfile.write(tmp_path / "short.wav", melody(0.8), 16_000)
  for i in range(num_speakers):
    soundfile.write(tmp_path / f"{i}.wav", melody(1.2, seed=i), 16_000)
    rows.append({"path": f"{i}.wav", "speaker": f"s{i}", "split": "valid"})
  (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  if num_speakers < 2:
    with pytest.raises(SystemExit, match=f"by {num_speakers} speakers .* at least two speakers"):
      script.read_speakers(str(tmp_path / "m.jsonl"))
    return
  clips = script.read_speakers(str(tmp_path / "m.jsonl"))
  made = script.write_speakers(clips, str(tmp_path / "speakers"), random.Random(0))
  assert [row["id"] for row in made] == ["s0", "s1"]
