"""Values in words: every value is read back, and bad transcripts are not."""

import re

import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import spoken_values
from audiolm_jax.data.spoken_values import Value, ValueKind, english, of_spanish, spanish

VALUES = spoken_values.values()


def test_the_domain_is_complete_and_each_value_has_its_own_words_and_name():
  counts = {kind: sum(value.kind is kind for value in VALUES) for kind in ValueKind}
  assert counts == {ValueKind.NUMBER: 10_000, ValueKind.DATE: 366, ValueKind.TIME: 1_440}
  for words in (english, spanish, lambda value: value.id):
    assert len({words(value) for value in VALUES}) == len(VALUES)
  assert all(re.fullmatch(r"[A-Za-z. -]+", english(value)) for value in VALUES)
  assert all(re.fullmatch(r"[a-zéíóñ ]+", spanish(value)) for value in VALUES)


@pytest.mark.parametrize(
  ("value", "in_english", "in_spanish"),
  [
    (Value(ValueKind.NUMBER, 0), "zero", "cero"),
    (Value(ValueKind.NUMBER, 31), "thirty-one", "treinta y uno"),
    (Value(ValueKind.NUMBER, 100), "one hundred", "cien"),
    (Value(ValueKind.NUMBER, 1_101), "one thousand one hundred one", "mil ciento uno"),
    (
      Value(ValueKind.NUMBER, 9_526),
      "nine thousand five hundred twenty-six",
      "nueve mil quinientos veintiséis",
    ),
    (Value(ValueKind.DATE, 1, 1), "January first", "el primero de enero"),
    (Value(ValueKind.DATE, 2, 29), "February twenty-ninth", "el veintinueve de febrero"),
    (Value(ValueKind.DATE, 8, 12), "August twelfth", "el doce de agosto"),
    (Value(ValueKind.DATE, 12, 30), "December thirtieth", "el treinta de diciembre"),
    (Value(ValueKind.TIME, 0, 0), "twelve a.m.", "las doce de la noche"),
    (Value(ValueKind.TIME, 1, 1), "one oh one a.m.", "la una y uno de la mañana"),
    (
      Value(ValueKind.TIME, 12, 52),
      "twelve fifty-two p.m.",
      "las doce y cincuenta y dos del mediodía",
    ),
    (Value(ValueKind.TIME, 19, 5), "seven oh five p.m.", "las siete y cinco de la tarde"),
    (Value(ValueKind.TIME, 23, 30), "eleven thirty p.m.", "las once y treinta de la noche"),
  ],
)  # fmt: skip
def test_words_of_both_languages(value, in_english, in_spanish):
  assert (english(value), spanish(value)) == (in_english, in_spanish)


def digits(value: Value) -> list[str]:
  """A value as recognizers write it."""
  first, second = value.first, value.second
  if value.kind is ValueKind.NUMBER:
    return [f"{first}.", *(f"{first:,}".replace(",", mark) for mark in ",. ")]
  if value.kind is ValueKind.DATE:
    month = spanish(value).split()[-1]
    return [f"El {second} de {month}.", f"{second}º de {month.capitalize()}"]
  part = " ".join(spanish(value).split()[-3 if value.first != 12 else -2 :])
  hour = first % 12 or 12
  return [
    *(f"{first}:{second:02d}", f"Las {first:02d}:{second:02d}.", f"{first:02d}.{second:02d} horas"),
    *(f"Las {hour}:{second:02d} {part}.", f"{hour}:{second:02d} {'ap'[first > 11]}. m."),
    f"a las {hour} y {second} {part}",
  ]  # fmt: skip


def test_every_value_is_read_back_from_spanish_words():
  for value in VALUES:
    assert of_spanish(spanish(value)) == value


def test_values_are_read_back_from_transcripts_in_digits():
  # Every seventh value contains each digit in each place, each day and each minute.
  for value in VALUES[::7]:
    for transcript in (f"¡{spanish(value).capitalize()}!", *digits(value)):
      assert of_spanish(transcript) == value, transcript


@pytest.mark.parametrize(
  ("transcript", "value"),
  [
    ("Siete menos cuarto de la tarde: las siete menos cuarto", None),
    ("las siete menos cuarto de la tarde", Value(ValueKind.TIME, 18, 45)),
    ("un cuarto para las ocho de la noche", Value(ValueKind.TIME, 19, 45)),
    ("las doce menos diez de la noche", Value(ValueKind.TIME, 23, 50)),
    ("Son las tres y media de la tarde.", Value(ValueKind.TIME, 15, 30)),
    ("la una y cuarto", Value(ValueKind.TIME, 1, 15)),
    ("las siete en punto de la mañana", Value(ValueKind.TIME, 7, 0)),
    ("las veintiuna y cinco", Value(ValueKind.TIME, 21, 5)),
    ("las siete cero cinco de la tarde", Value(ValueKind.TIME, 19, 5)),
    ("Las 705 de la mañana", Value(ValueKind.TIME, 7, 5)),
    ("el uno de enero", Value(ValueKind.DATE, 1, 1)),
    ("1ero de setiembre", Value(ValueKind.DATE, 9, 1)),
    ("4 mil 321", Value(ValueKind.NUMBER, 4_321)),
    ("doscientas veintiún", Value(ValueKind.NUMBER, 221)),
  ],
)
def test_other_ways_to_state_a_value_are_known(transcript, value):
  assert of_spanish(transcript) == value


@pytest.mark.parametrize(
  "transcript",
  [
    *("", "hola", "cuatro mil perros", "cuarenta y", "cinco cuarenta", "mil mil", "diez mil"),
    *("30 de febrero", "el de mayo", "mayo", "las", "25:00", "7:61", "las siete y"),
    *("para las ocho", "cien mil", "ciento y uno", "uno dos", "12345"),
  ],
)  # fmt: skip
def test_what_is_no_value_is_not_read_as_one(transcript):
  assert of_spanish(transcript) is None


@pytest.mark.parametrize("parts", [("number", 10_000), ("date", 2, 30), ("time", 24, 0)])
def test_values_outside_the_domain_are_refused(parts):
  with pytest.raises(DataError, match=f"there is no {parts[0]}"):
    Value(ValueKind(parts[0]), *parts[1:])


def test_the_words_of_held_out_values_occur_in_others():
  held_out = [value for value in VALUES if value.is_held_out(0.05)]
  assert 0.04 * len(VALUES) < len(held_out) < 0.06 * len(VALUES)
  assert {value.kind for value in held_out} == set(ValueKind)
  rest = [value for value in VALUES if not value.is_held_out(0.05)]
  for words in (english, spanish):
    known = {word for value in rest for word in words(value).split()}
    assert {word for value in held_out for word in words(value).split()} <= known
  assert set(held_out) <= {value for value in VALUES if value.is_held_out(0.1)}
  assert not any(value.is_held_out(1.0) for value in VALUES[:100])
