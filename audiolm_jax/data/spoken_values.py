"""Converts numbers, dates and times of day to English or Spanish words, and from Spanish words.

The domain of the values is small, so that a model can learn it completely: the numbers 0 to 9999,
the 366 dates without a year, and the 1440 minutes of a day. Spanish transcripts can also contain
digits, because speech recognizers write digits.
"""

import dataclasses
import enum
import re
import unicodedata

from audiolm_jax.core.errors import DataError
from audiolm_jax.data.manifest import unit_hash

_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LARGEST = 9_999
# Smaller numbers are not held out, because their words occur in too few other values.
_LEAST_HELD_OUT = 100

_EN_SMALL = (
  *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
  *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
  "nineteen",
)
_EN_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_EN_ORDINALS = {
  **{"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth"},
  **{"nine": "ninth", "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"},
}
_EN_MONTHS = (
  *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
  *("October", "November", "December"),
)
_ES_SMALL = (
  *("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez"),
  *("once", "doce", "trece", "catorce", "quince", "dieciséis", "diecisiete", "dieciocho"),
  *("diecinueve", "veinte", "veintiuno", "veintidós", "veintitrés", "veinticuatro"),
  *("veinticinco", "veintiséis", "veintisiete", "veintiocho", "veintinueve"),
)
_ES_TENS = ("treinta", "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa")
_ES_HUNDREDS = (
  *("ciento", "doscientos", "trescientos", "cuatrocientos", "quinientos", "seiscientos"),
  *("setecientos", "ochocientos", "novecientos"),
)
_ES_MONTHS = (
  *("enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre"),
  *("octubre", "noviembre", "diciembre"),
)


class ValueKind(enum.StrEnum):
  """The kinds of values."""

  NUMBER = "number"
  DATE = "date"
  TIME = "time"


@dataclasses.dataclass(frozen=True, order=True)
class Value:
  """A number, a date or a time of day.

  Attributes:
    kind: kind of the value.
    first: the number; the month, from 1 to 12; or the hour, from 0 to 23.
    second: 0 for a number; the day of the month; or the minute.

  Raises:
    DataError: the value does not exist, such as February 30.
  """

  kind: ValueKind
  first: int
  second: int = 0

  def __post_init__(self):
    if self.kind is ValueKind.NUMBER:
      fits = 0 <= self.first <= _LARGEST and self.second == 0
    elif self.kind is ValueKind.DATE:
      fits = 1 <= self.first <= 12 and 1 <= self.second <= _DAYS[self.first - 1]
    else:
      fits = 0 <= self.first < 24 and 0 <= self.second < 60
    if not fits:
      raise DataError(f"there is no {self.kind} ({self.first}, {self.second})")

  @property
  def id(self) -> str:
    """Name of the value for file names."""
    if self.kind is ValueKind.NUMBER:
      return f"number-{self.first:04d}"
    return f"{self.kind}-{self.first:02d}-{self.second:02d}"

  def is_held_out(self, fraction: float) -> bool:
    """Returns whether the value belongs to the held-out share of the domain.

    Args:
      fraction: approximate held-out share. The held-out values are the same on every machine;
        numbers below 100 are never held out.
    """
    is_short = self.kind is ValueKind.NUMBER and self.first < _LEAST_HELD_OUT
    return not is_short and unit_hash(self.id) < fraction


def values() -> list[Value]:
  """Returns all values of the domain."""
  return [
    *(Value(ValueKind.NUMBER, number) for number in range(_LARGEST + 1)),
    *(
      Value(ValueKind.DATE, m + 1, day + 1) for m, count in enumerate(_DAYS) for day in range(count)
    ),
    *(Value(ValueKind.TIME, hour, minute) for hour in range(24) for minute in range(60)),
  ]


def english(value: Value) -> str:
  """Returns a value in English words, such as "seven oh five p.m."."""
  if value.kind is ValueKind.NUMBER:
    return _english_number(value.first)
  if value.kind is ValueKind.DATE:
    return f"{_EN_MONTHS[value.first - 1]} {_english_ordinal(value.second)}"
  minute = _english_number(value.second)
  words = [_english_number(value.first % 12 or 12)]
  if value.second:
    words.append(f"oh {minute}" if value.second < 10 else minute)
  return " ".join([*words, "a.m." if value.first < 12 else "p.m."])


def spanish(value: Value) -> str:
  """Returns a value in Spanish words, such as "las siete y cinco de la tarde"."""
  if value.kind is ValueKind.NUMBER:
    return _spanish_number(value.first)
  if value.kind is ValueKind.DATE:
    day = "primero" if value.second == 1 else _spanish_number(value.second)
    return f"el {day} de {_ES_MONTHS[value.first - 1]}"
  hour = value.first % 12 or 12
  words = "la una" if hour == 1 else f"las {_spanish_number(hour)}"
  if value.second:
    words += f" y {_spanish_number(value.second)}"
  return f"{words} {_part_of_day(value.first)}"


def of_spanish(transcript: str) -> Value | None:
  """Returns the value that a Spanish transcript states in words or digits; None if there is none.

  Accents, capitals and most punctuation are ignored. Common forms that `spanish` does not return,
  such as "un cuarto para las ocho" and "19:45", are accepted too.
  """
  words = _words(transcript)
  for read in (_read_date, _read_time, _read_number):
    try:
      found = read(words)
    except DataError:  # such as February 30
      return None
    if found is not None:
      return found
  return None


def _english_number(number: int) -> str:
  if number < 20:
    return _EN_SMALL[number]
  for size, name in ((1_000, "thousand"), (100, "hundred")):
    if number >= size:
      head, rest = divmod(number, size)
      tail = f" {_english_number(rest)}" if rest else ""
      return f"{_english_number(head)} {name}{tail}"
  tens, ones = divmod(number, 10)
  return _EN_TENS[tens - 2] + (f"-{_EN_SMALL[ones]}" if ones else "")


def _english_ordinal(number: int) -> str:
  head, dash, last = _english_number(number).rpartition("-")
  return head + dash + _EN_ORDINALS.get(last, f"{last}th")


def _spanish_number(number: int) -> str:
  if number < 30:
    return _ES_SMALL[number]
  if number < 100:
    tens, ones = divmod(number, 10)
    return _ES_TENS[tens - 3] + (f" y {_ES_SMALL[ones]}" if ones else "")
  if number == 100:
    return "cien"
  if number < 1_000:
    hundreds, rest = divmod(number, 100)
    return _ES_HUNDREDS[hundreds - 1] + (f" {_spanish_number(rest)}" if rest else "")
  thousands, rest = divmod(number, 1_000)
  head = "mil" if thousands == 1 else f"{_ES_SMALL[thousands]} mil"
  return head + (f" {_spanish_number(rest)}" if rest else "")


def _part_of_day(hour: int) -> str:
  if hour == 12:
    return "del mediodía"
  if 1 <= hour < 12:
    return "de la mañana"
  return "de la tarde" if 13 <= hour < 20 else "de la noche"


def _plain(text: str) -> str:
  """Returns a text in lower case without accents."""
  decomposed = unicodedata.normalize("NFD", text.lower())
  return "".join(c for c in decomposed if not unicodedata.combining(c))


_SIZES = {
  **{_plain(word): number for number, word in enumerate(_ES_SMALL)},
  **{word: 10 * tens for tens, word in enumerate(_ES_TENS, 3)},
  **{word: 100 * hundreds for hundreds, word in enumerate(_ES_HUNDREDS, 1)},
  **{word[:-2] + "as": 100 * count for count, word in enumerate(_ES_HUNDREDS, 1) if count > 1},
  **{"un": 1, "una": 1, "veintiun": 21, "veintiuna": 21, "cien": 100},
}
_MONTHS = {word: month for month, word in enumerate(_ES_MONTHS, 1)} | {"setiembre": 9}
_AROUND_TIMES = (
  *("a", "son", "es", "la", "las", "de", "del", "en", "por", "el", "punto", "hora", "horas"),
  *("minuto", "minutos", "con", ":"),
)
_PARTS = ("manana", "madrugada", "mediodia", "tarde", "noche", "am", "pm")


def _words(transcript: str) -> list[str]:
  """Returns the words and numbers of a transcript; 19:45 becomes `19`, `:` and `45`."""
  text = _plain(unicodedata.normalize("NFKC", transcript.replace("º", "").replace("°", "")))
  text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", text)
  text = re.sub(r"(?<=\d)(er|ero|ro|o)\b", "", text)
  text = re.sub(r"(?<=\b\d)[., ](?=\d{3}\b)", "", text)  # separators of thousands
  text = re.sub(r"\b(\d{1,2})(?:[.:h]\s?)(\d\d)\b", r"\1 : \2", text)
  return re.findall(r"[a-z]+|\d+|:", text)


def _number(words: list[str]) -> int | None:
  """Returns the number that words or digits state; None if they are not one number."""
  total = part = 0
  last = 10_000  # each word of a part is smaller than the previous word
  for place, word in enumerate(words):
    if word == "y":
      if last not in range(20, 100, 10) or place + 1 == len(words):
        return None
      continue
    if word == "mil":
      if total or (part == 0 and place):
        return None
      total, part, last = 1_000 * (part or 1), 0, 1_000
      continue
    size = int(word) if word.isdigit() else _SIZES.get(word)
    if size is None or (place and not _follows(size, last)):
      return None
    part, last = part + size, size
  return total + part if words else None


def _follows(size: int, last: int) -> bool:
  """Returns whether `size` can follow `last` in a number, as 5 can follow 40, 300 and 1000."""
  if size == 0:
    return False
  return any(size < unit and last % unit == 0 for unit in (1_000, 100, 10) if last >= unit)


def _read_number(words: list[str]) -> Value | None:
  number = _number(words)
  return None if number is None or number > _LARGEST else Value(ValueKind.NUMBER, number)


def _read_date(words: list[str]) -> Value | None:
  """Returns the date in words such as `el tres de mayo`; None for other words.

  Raises:
    DataError: the date does not exist.
  """
  if len(words) < 2 or words[-1] not in _MONTHS:
    return None
  day = [word for word in words[:-1] if word not in ("el", "dia", "de")]
  number = 1 if day in (["primero"], ["primer"]) else _number(day)
  return None if number is None else Value(ValueKind.DATE, _MONTHS[words[-1]], number)


def _read_time(words: list[str]) -> Value | None:
  """Returns the time in words such as `las siete y cinco de la tarde`; None for other words.

  Times such as `19 : 05` and `las ocho menos cuarto` are accepted too.
  """
  words = list(words)
  if ":" not in words and "la" not in words and "las" not in words:
    return None
  part = next((word for word in reversed(words) if word in _PARTS), "")
  before: int | None = 0
  minute: int | None = 0
  if "para" in words:  # `un cuarto para las ocho`
    place = words.index("para")
    before, words = _minutes(_stated(words[:place])), words[place + 1 :]
  stated = _stated(words)
  if len(stated) == 1 and re.fullmatch(r"\d{3,4}", stated[0]):  # `las 705`
    stated = [stated[0][:-2], stated[0][-2:]]
  hour, after = _number(stated[:1]), stated[1:]
  if after[:1] == ["menos"]:
    before = _minutes(after[1:])
  elif after:
    minute = _minutes(after[1:] if after[0] == "y" else after)
  if hour is None or minute is None or before is None or max(minute, before) > 59:
    return None
  moment = 60 * _hour_of_day(hour, part) + minute - before
  return Value(ValueKind.TIME, *divmod(moment % (24 * 60), 60)) if moment < 24 * 60 else None


def _stated(words: list[str]) -> list[str]:
  """Returns the words of a time that state its hour and its minute."""
  return [word for word in words if word not in (*_AROUND_TIMES, *_PARTS)]


def _minutes(words: list[str]) -> int | None:
  known: dict[tuple[str, ...], int] = {("cuarto",): 15, ("un", "cuarto"): 15, ("media",): 30}
  if tuple(words) in known:
    return known[tuple(words)]
  if len(words) == 2 and words[0] in ("0", "cero"):  # `siete cero cinco`
    return _number(words[1:])
  return _number(words)


def _hour_of_day(hour: int, part: str) -> int:
  """Returns an hour of the day from 0 to 23; an invalid hour above 24 is returned unchanged.

  Args:
    hour: hour on a clock with 12 or 24 hours.
    part: part of the day, one of `_PARTS`; "" if unknown.
  """
  if hour > 12 or not part:
    return 0 if hour == 24 else hour
  if part in ("manana", "madrugada", "am"):
    return hour % 12
  if part == "noche":
    return hour % 12 if hour == 12 or hour < 6 else hour + 12
  return hour % 12 + 12
