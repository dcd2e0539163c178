import numpy as np
import pytest

from audiolm_jax.evaluation import tokens
from audiolm_jax.evaluation.tokens import Reading


def ids(text: str) -> np.ndarray:
  return np.array([ord(c) for c in text], np.int64)


@pytest.mark.parametrize(
  ("one", "other", "distance"),
  [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("ab", "ab", 0)],
)
def test_edit_distance_of_known_words(one, other, distance):
  assert tokens.edit_distance(ids(one), ids(other)) == distance


def test_edit_distance_equals_the_textbook_recursion():
  def slow(a, b):
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
      for j, y in enumerate(b, 1):
        table[i][j] = min(
          table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + int(x != y)
        )
    return table[-1][-1]

  rng = np.random.default_rng(0)
  for _ in range(30):
    a, b = rng.integers(0, 4, rng.integers(1, 12)), rng.integers(0, 4, rng.integers(1, 12))
    assert tokens.edit_distance(a, b) == slow(a, b)


def test_token_distance_collapses_repeats_and_is_between_zero_and_one():
  assert tokens.token_distance(ids("aabbb"), ids("ab")) == 0
  assert tokens.token_distance(ids("aaa"), ids("xyz")) == 1


def test_tokens_that_follow_the_sentence_have_all_triples_right_and_voices_none():
  sentences = {"one": "abcdef", "two": "uvwxyz", "three": "mnopqr"}
  by_content = [Reading(s, v, ids(text)) for s, text in sentences.items() for v in ("p", "q")]
  report = tokens.triple_accuracy(by_content)
  assert report.accuracy.value == 1
  assert report.num_triples == 6 * 1 * 2
  assert (report.same_sentence, report.same_speaker) == (0, 1)
  assert report.by_speaker == {"p": 1, "q": 1}
  by_voice = [Reading(s, v, ids(v * 3 + "z" + v)) for s in sentences for v in ("p", "q")]
  assert tokens.triple_accuracy(by_voice).accuracy.value == 0


def test_uninformative_tokens_tie_at_one_half():
  readings = [Reading(s, v, ids("a")) for s in ("one", "two") for v in ("p", "q")]
  assert tokens.triple_accuracy(readings).accuracy.value == 0.5


def test_one_voice_alone_makes_no_triple():
  with pytest.raises(ValueError, match="no triple"):
    tokens.triple_accuracy([Reading("one", "p", ids("a")), Reading("two", "p", ids("b"))])


def test_longest_run_counts_equal_neighbours():
  assert tokens.longest_run(ids("abbbcc")) == 3
  assert tokens.longest_run(ids("")) == 0


def test_repetition_rate_finds_loops_of_any_short_period_only():
  assert tokens.repetition_rate(ids("abcabcabcabc")) == 1
  assert tokens.repetition_rate(ids("aaaa" + "bcde")) == 0.5
  assert tokens.repetition_rate(ids("abcabcabcxyz")) == 0  # three times only
  assert tokens.repetition_rate(np.random.default_rng(0).integers(0, 500, 400)) == 0
