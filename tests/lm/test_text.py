"""Normalised texts, sentences and characters."""

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.core.streams import TEXT
from audiolm_jax.lm import text

SPOKEN = {
  "Dr. Smith paid $5.20 on March 5, 2024.":
    "doctor smith paid five dollars and twenty cents on march fifth, twenty twenty four.",
  "On 2023-12-01, 1,234 people (3.5%) came 1st.":
    "on december first, twenty twenty three, one thousand two hundred and thirty four people "
    "(three point five percent) came first.",
  "No. 5 & \N{POUND SIGN}1.01 at 10:05, 7:00":
    "number five and one pound and one penny at ten oh five, seven o'clock",
  "$3 million in the 1980s, 1987; -5": "three million dollars in the nineteen eighties, "
    "nineteen eighty seven; minus five",
  "5 May and the 6th of June": "the fifth of may and the sixth of june",
  "a1b2": "a one b two",
}  # fmt: skip


@pytest.mark.parametrize("written", SPOKEN)
def test_numbers_dates_and_amounts_become_words(written):
  pytest.importorskip("num2words")
  spoken = text.normalized(written)
  assert spoken == SPOKEN[written] == text.normalized(spoken)


def test_other_languages_have_their_own_numbers():
  pytest.importorskip("num2words")
  assert text.normalized("Tengo 21.", "es") == "tengo veintiuno."
  with pytest.raises(UserError, match="the number 3 cannot be written in 'tlh'"):
    text.normalized("3", "tlh")


def test_typography_becomes_plain_and_contractions_remain():
  found = text.normalized("\u201cDon\u2019t\u201d  \u2014 it\u2019s [ok]\u2026\n")
  assert found == "\"don't\" - it's (ok)..."


def test_a_number_without_num2words_is_one_line(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "num2words", None)
  with pytest.raises(UserError, match=r"the number 7, which needs num2words .*audiolm_jax\[text\]"):
    text.normalized("7 days")
  assert text.normalized("seven days") == "seven days"


def test_texts_are_split_after_sentences_then_after_commas_and_words():
  words = 'it is five. "stop!" now, then and there? yes'
  assert text.sentences(words, 100) == ["it is five.", '"stop!', "now, then and there?", "yes"]
  parts = text.sentences("now, then and there, and so on and on", 14)
  assert parts == ["now,", "then and", "there,", "and so on and", "on"]
  assert text.sentences("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5]
  assert text.sentences("... !", 10) == []


def test_accents_count_as_letters_unless_the_vocabulary_has_them():
  assert text.places("caf\xe9", "acef").tolist() == [1, 0, 3, 2]
  assert text.places("\xe9e", "e\xe9").tolist() == [1, 0]
  with pytest.raises(DataError, match=r"the text has '/ \\u4e2d', which the stage does not know"):
    text.places("a/\u4e2d/a", "a")
  with pytest.raises(DataError, match="the text is empty"):
    text.places("", "a")


def test_texts_survive_as_tokens_of_their_stream():
  words = "na\xefve \U0001f3b5"
  points = text.code_points(words)
  assert TEXT.of({TEXT.key: points}, "a stage") is points
  assert text.of_code_points(points) == words
  with pytest.raises(DataError, match="no character"):
    text.of_code_points(np.array([-1]))
