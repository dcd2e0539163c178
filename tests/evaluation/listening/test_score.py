import json

import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.listening import score

REAL = {
  "test": "t",
  "kind": "real_or_synthetic",
  "trials": {
    f"r{i}": {"source": "", "truth": ["real" if i % 2 else "synthetic"]} for i in range(10)
  },
}
CHOICE = {
  "test": "t",
  "kind": "preference",
  "trials": {f"p{i}": {"source": "", "truth": [["a", "b"], ["b", "a"]][i % 2]} for i in range(6)},
}
MUSHRA = {
  "test": "t",
  "kind": "mushra",
  "trials": {f"m{i}": {"source": "", "truth": ["anchor", "codec", "reference"]} for i in range(4)},
}


def write(folder, listener, answers, test="t"):
  path = folder / f"answers-{listener}.json"
  entries = [{"trial": trial, "answer": answer} for trial, answer in answers.items()]
  path.write_text(json.dumps({"test": test, "listener": listener, "answers": entries}))
  return path


def answers_of(key, tmp_path, *of_listeners):
  paths = [write(tmp_path, f"l{i}", answers) for i, answers in enumerate(of_listeners)]
  return score.read_answers(paths, key)


def test_numbers_of_the_paper_come_out():
  # 512 of 1000: the paper gives p = 0.23, which is one-sided.
  low, high = score.wilson_interval(512, 1000)
  assert (low, high) == (pytest.approx(0.481, abs=1e-3), pytest.approx(0.543, abs=1e-3))
  trials = {str(i): {"truth": ["real"]} for i in range(1000)}
  key = {"test": "t", "kind": "real_or_synthetic", "trials": trials}
  given = {str(i): "real" if i < 512 else "synthetic" for i in range(1000)}
  found = score.score(key, [score.Answers("l", given)])
  values = {row.figure: row.estimate.value for row in found.rows}
  assert values["right answers, all clips"] == 0.512
  assert values["p against one half, two-sided"] == pytest.approx(0.467, abs=0.01)
  assert any("does not show that there is none" in sentence for sentence in found.sentences)


def test_numbers_of_answers_equal_those_of_the_textbook():
  assert score.answers_for_margin(0.05) == 385
  assert score.answers_needed(0.55) == pytest.approx(783, abs=2)
  assert score.answers_needed(0.833) < 20


def test_right_answers_are_counted_by_kind_of_clip(tmp_path):
  # One listener who always answers real, one who is always right.
  always = dict.fromkeys(REAL["trials"], "real")
  right = {trial: entry["truth"][0] for trial, entry in REAL["trials"].items()}
  found = score.score(REAL, answers_of(REAL, tmp_path, always, right))
  values = {row.figure: row.estimate for row in found.rows}
  assert (
    values["right answers, all clips"].value == 0.75 and values["right answers, all clips"].n == 20
  )
  assert values["right answers, real clips"].value == 1.0
  assert values["right answers, synthetic clips"].value == 0.5
  resampled = values["right answers, all clips, resampled over listeners and trials"]
  assert resampled.value == 0.75 and resampled.low < 0.75 < resampled.high


def test_a_preference_follows_the_system_not_the_place(tmp_path):
  prefers_a = {t: str(e["truth"].index("a")) for t, e in CHOICE["trials"].items()}
  found = score.score(CHOICE, answers_of(CHOICE, tmp_path, prefers_a))
  assert found.rows[0].figure == "preferred, a to b" and found.rows[0].estimate.value == 1.0
  always_first = dict.fromkeys(CHOICE["trials"], "0")
  assert (
    score.score(CHOICE, answers_of(CHOICE, tmp_path, always_first)).rows[0].estimate.value == 0.5
  )


def test_ratings_are_ordered_and_inattentive_listeners_are_excluded(tmp_path):
  good = {t: {"0": 20 + i, "1": 70 + i, "2": 95 + i} for i, t in enumerate(MUSHRA["trials"])}
  bad = {t: {"0": 90, "1": 10, "2": 40} for t in MUSHRA["trials"]}
  found = score.score(MUSHRA, answers_of(MUSHRA, tmp_path, good, good, bad))
  values = {row.figure: row.estimate.value for row in found.rows}
  assert list(values)[:3] == ["rating, reference", "rating, codec", "rating, anchor"]
  assert values["rating, codec"] == 71.5
  assert (
    values["rating difference, reference over codec"] == 25
    and values["rating difference, codec over anchor"] == 50
  )
  assert any("Excluded" in sentence and "l2" in sentence for sentence in found.sentences)
  with pytest.raises(DataError, match="too often to count"):
    score.score(MUSHRA, answers_of(MUSHRA, tmp_path, bad))


def test_files_that_are_no_answers_are_refused(tmp_path):
  right = {trial: "real" for trial in REAL["trials"]}
  with pytest.raises(DataError, match="another test"):
    score.read_answers([write(tmp_path, "x", right, test="other")], REAL)
  with pytest.raises(DataError, match="invalid answer"):
    score.read_answers([write(tmp_path, "x", right | {"r0": "maybe"})], REAL)
  with pytest.raises(DataError, match="invalid answer"):
    score.read_answers([write(tmp_path, "x", {"gone": "real"})], REAL)
  with pytest.raises(DataError, match="has no answers"):
    score.read_answers([write(tmp_path, "x", {})], REAL)
  (tmp_path / "bad.json").write_text("[]")
  with pytest.raises(DataError, match="has no answers"):
    score.read_answers([tmp_path / "bad.json"], REAL)
  with pytest.raises(DataError, match="is no key"):
    score.read_key(tmp_path / "bad.json")


def test_a_listener_counts_once(tmp_path):
  first = write(tmp_path, "x", {"r0": "real"})
  (tmp_path / "later").mkdir()
  later = write(tmp_path / "later", "x", {"r0": "synthetic"})
  (answers,) = score.read_answers([first, later], REAL)
  assert answers.by_trial == {"r0": "synthetic"}


def test_the_command_prints_a_table(run_cli, tmp_path):
  (tmp_path / "key.json").write_text(json.dumps(REAL))
  write(tmp_path, "x", {t: "real" for t in REAL["trials"]})
  done = run_cli(
    "listening_test", "score", tmp_path / "answers-*.json", f"--key={tmp_path / 'key.json'}"
  )
  assert done.code == 0, done.err
  assert "| right answers, all clips | 0.5 |" in done.out and "10 answers: 50.0%" in done.out


@pytest.mark.parametrize(
  "key, answer",
  [
    (MUSHRA, {}),
    (MUSHRA, {"0": True}),
    (MUSHRA, {"0": float("nan")}),
    (MUSHRA, {"0": 10**400}),
    (MUSHRA, {"0": 50, "9": 50}),
    (MUSHRA, json.loads("[" * 60 + "]" * 60)),
    (CHOICE, {"0": 1}),
    (REAL, None),
  ],
)
def test_answers_of_another_form_are_refused_in_one_line(tmp_path, key, answer):
  trial = next(iter(key["trials"]))
  with pytest.raises(DataError, match="invalid answer") as caught:
    score.read_answers([write(tmp_path, "l", {trial: answer})], key)
  assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "content",
  [
    "[" * 5000,
    '{"test": "t", "listener": [], "answers": []}',
    '{"test": "t", "listener": "l", "answers": [{"trial": [], "answer": "real"}]}',
    '{"test": "t", "listener": "l", "answers": 7}',
    '{"test": "\\ud800"}',
    "7",
  ],
)
def test_files_that_are_no_answers_are_refused_in_one_line(tmp_path, content):
  path = tmp_path / "answers.json"
  path.write_text(content)
  with pytest.raises(DataError, match=r"answers\.json") as caught:
    score.read_answers([path], REAL)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "change",
  [
    {"kind": "guessing"},
    {"test": 7},
    {"trials": []},
    {"trials": {"a": 1}},
    {"trials": {"a": {"truth": []}}},
    {"trials": {"a": {"truth": ["robot"]}}},
    {"kind": "preference"},
  ],
)
def test_keys_of_another_form_are_refused(tmp_path, change):
  path = tmp_path / "key.json"
  path.write_text(json.dumps(REAL | change))
  if change == {"kind": "preference"}:
    path.write_text(json.dumps(CHOICE | {"trials": {"a": {"truth": ["a", "a"]}}}))
  with pytest.raises(DataError, match=r"key\.json"):
    score.read_key(path)
