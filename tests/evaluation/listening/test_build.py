import json
import random
import re

import numpy as np
import pytest
import soundfile

from audiolm_jax import bundles
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.evaluation.listening import build
from audiolm_jax.io import provenance
from tests.conftest import melody

RATE = 16_000


def sounds(count, seconds=0.5, first=0):
  return [melody(seconds, seed=first + i) for i in range(count)]


def page_of(folder):
  text = (folder / "index.html").read_text()
  return text, json.loads(re.findall(r'type="application/json">(.*?)</script>', text, re.S)[0])


def test_half_of_the_clips_are_real_and_no_prompt_is_used_twice(tmp_path):
  names = [f"clip {i}" for i in range(8)]
  trials = build.real_or_synthetic(names, sounds(8), sounds(8), sounds(8, first=20), RATE)
  assert sorted(trial.source for trial in trials) == names
  truths = [trial.sounds[0].truth for trial in trials]
  assert truths.count("real") == truths.count("synthetic") == 4
  for trial in trials:
    index = names.index(trial.source)
    first = 20 if trial.sounds[0].truth == "synthetic" else 0
    expected = np.concatenate([melody(0.5, seed=index), melody(0.5, seed=first + index)])
    np.testing.assert_array_equal(trial.sounds[0].waveform, expected)


def test_the_truth_is_in_the_key_and_not_in_the_page(tmp_path):
  trials = build.preference(
    ["</script>1", "2"], {"mine": sounds(2), "theirs": sounds(2, 0.5, 9)}, 0.1
  )
  key_path = build.write_test(tmp_path / "page", build.ListeningTestKind.PREFERENCE, trials, RATE)
  text, shown = page_of(tmp_path / "page")
  assert key_path == tmp_path / "page.key.json"
  assert "mine" not in text and "theirs" not in text and "TEST_AS_JSON" not in text
  key = json.loads(key_path.read_text())
  assert key["test"] == shown["id"] and set(key["trials"]) == {t["id"] for t in shown["trials"]}
  for trial in shown["trials"]:
    entry = key["trials"][trial["id"]]
    for sound, truth in zip(trial["sounds"], entry["truth"], strict=True):
      path = tmp_path / "page" / sound["file"]
      sound_file, _ = soundfile.read(path, dtype="float32")
      index = 0 if entry["source"] == "</script>1" else 1
      expected = melody(0.5, seed=(9 if truth == "theirs" else 0) + index)
      np.testing.assert_allclose(sound_file, expected, atol=1e-4)
      assert provenance.read_provenance(path) is None
  files = {p.name for p in (tmp_path / "page").rglob("*") if p.is_file()}
  assert len(files) == 1 + 4


def test_pages_refer_to_nothing_outside(tmp_path):
  trials = build.mushra(["1"], sounds(1), {"codec": sounds(1)}, RATE)
  build.write_test(tmp_path / "page", build.ListeningTestKind.MUSHRA, trials, RATE)
  text, shown = page_of(tmp_path / "page")
  assert not re.search(r"https?://", text)
  assert len(shown["trials"][0]["sounds"]) == 3 and shown["trials"][0]["reference"]


def test_the_anchor_has_no_highs():
  (trial,) = build.mushra(["1"], [np.random.default_rng(0).normal(0, 0.1, RATE)], {}, RATE)
  by_truth = {sound.truth: np.abs(np.fft.rfft(sound.waveform)) for sound in trial.sounds}
  above = slice(4_000, None)
  ratio = by_truth["anchor"][above].mean() / by_truth["reference"][above].mean()
  assert ratio < 0.01


def test_folders_in_use_and_tests_without_trials_are_refused(tmp_path):
  (tmp_path / "page").mkdir()
  (tmp_path / "page" / "mine.txt").write_text("x")
  trials = build.mushra(["1"], sounds(1), {}, RATE)
  with pytest.raises(UserError, match="is not empty"):
    build.write_test(tmp_path / "page", build.ListeningTestKind.MUSHRA, trials, RATE)
  with pytest.raises(DataError, match="no trials"):
    build.write_test(tmp_path / "other", build.ListeningTestKind.MUSHRA, [], RATE)


@pytest.mark.parametrize("kind", ["real_or_synthetic", "preference", "mushra"])
def test_the_command_builds_each_kind(run_cli, miniature_bundle, tmp_path, kind):
  for i in range(4):
    soundfile.write(tmp_path / f"{i}.wav", melody(2.0 if i else 0.5, seed=i), RATE)
  first = bundles.save_bundle(miniature_bundle, tmp_path / "first")
  other = [f"--other_bundle={bundles.save_bundle(miniature_bundle, tmp_path / 'second')}"]
  arguments = [
    *("listening_test", "build", f"--kind={kind}", f"--bundle={first}", f"--prompts={tmp_path}"),
    *("--prompt_seconds=0.6", "--duration=0.8", f"--output_dir={tmp_path / 'page'}"),
    *(other if kind == "preference" else []),
  ]
  done = run_cli(*arguments)
  assert done.code == 0, done.err
  assert "3 trials" in done.out
  _, shown = page_of(tmp_path / "page")
  key = json.loads((tmp_path / "page.key.json").read_text())
  assert shown["kind"] == key["kind"] == kind and len(shown["trials"]) == 3
  for trial in shown["trials"]:
    for sound in trial["sounds"]:
      sound_file, _ = soundfile.read(tmp_path / "page" / sound["file"])
      assert len(sound_file) == round(1.4 * RATE) and np.abs(sound_file).max() > 1e-3
      assert sound["known"] == (0.0 if kind == "mushra" else 0.6)


def test_wrong_commands_are_refused(run_cli, tmp_path):
  assert "the command is build, or score" in run_cli("listening_test").err
  assert "--prompts is needed" in run_cli("listening_test", "build").err
  assert "--key is needed" in run_cli("listening_test", "score", "x.json").err
  done = run_cli(*("listening_test", "build", "--kind=preference", "--prompts=x", "--output_dir=y"))
  assert done.code == 2 and "--other_bundle and --kind preference" in done.err


def test_nothing_in_a_page_can_be_computed(tmp_path):
  """A page that was built again from the same clips has other names and another order."""
  names = [f"clip {i}" for i in range(12)]
  clips = sounds(12, 0.05), sounds(12, 0.05), sounds(12, 0.05, first=20)
  seen, real = [], set()
  for i in range(2):
    trials = build.real_or_synthetic(names, *clips, RATE)
    real.add(tuple(t.source for t in trials if t.sounds[0].truth == "real"))
    key_path = build.write_test(
      tmp_path / str(i), build.ListeningTestKind.REAL_OR_SYNTHETIC, trials, RATE
    )
    assert key_path.stat().st_mode & 0o077 == 0
    _, shown = page_of(tmp_path / str(i))
    seen.append(shown["id"])
    seen += [
      *(t["id"] for t in shown["trials"]),
      *(t["sounds"][0]["file"] for t in shown["trials"]),
    ]
  assert len(real) == 2
  assert len(set(seen)) == 2 * (1 + 12 + 12)
  for seed in range(3):
    guess = random.Random(seed)
    guesses = {f"{guess.getrandbits(48):012x}" for _ in range(100)}
    assert not any(entry.removeprefix("audio/")[:12] in guesses for entry in seen)


def test_the_hidden_reference_is_no_copy_of_the_open_one_and_no_sound_lacks_dither(tmp_path):
  original = np.concatenate([melody(0.5), np.zeros(RATE // 2, np.float32)])
  trials = build.mushra(["1"], [original], {"codec": [0.5 * original]}, RATE)
  build.write_test(tmp_path / "page", build.ListeningTestKind.MUSHRA, trials, RATE)
  (shown,) = page_of(tmp_path / "page")[1]["trials"]
  paths = [tmp_path / "page" / s["file"] for s in (shown["reference"], *shown["sounds"])]
  assert len({path.read_bytes() for path in paths}) == 4
  opened, *others = [soundfile.read(path, dtype="int16")[0].astype(int) for path in paths]
  furthest = sorted(np.abs(opened - other).max() for other in others)
  assert 0 < furthest[0] <= 3 < furthest[1]
  hidden = min(others, key=lambda other: np.abs(opened - other).max())
  assert np.mean(hidden != opened) > 0.4
  # In digital silence, too, one sound is like another: a few steps of 16 bits.
  for sound in (opened, *others):
    assert 0.4 < sound[-RATE // 4 :].std() < 1.0


def test_the_key_can_be_elsewhere_but_not_in_the_page(tmp_path):
  trials = build.mushra(["1"], sounds(1), {}, RATE)
  folder, kind = tmp_path / "page", build.ListeningTestKind.MUSHRA
  with pytest.raises(UserError, match="would be published with"):
    build.write_test(folder, kind, trials, RATE, key_path=folder / "key.json")
  assert not folder.exists()
  assert build.write_test(folder, kind, trials, RATE, key_path=tmp_path / "key.json").is_file()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["key.json", "page"]
