"""Text processing for stages with text: normalisation, sentences and characters.

Texts are stored as written, as Unicode code points. A stage normalises a text when it reads the
text, in training and in sampling.
"""

import importlib
import re
import unicodedata

import numpy as np
from jaxtyping import Integer

from audiolm_jax.core.errors import DataError, UserError

# The vocabulary of English stages.
CHARACTERS = " abcdefghijklmnopqrstuvwxyz'.,?!;:-\"()"
ENGLISH = "en"

_TYPOGRAPHIC = str.maketrans(
  {
    **dict.fromkeys("\u2018\u2019\u02bc\u0060\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012", "-"),
    **dict.fromkeys("\u2013\u2014", " - "),
    **dict.fromkeys("[{", "("),
    **dict.fromkeys("]}", ")"),
    "\u2026": "...",
  }
)
_ABBREVIATIONS = {
  **{"mr": "mister", "mrs": "missus", "ms": "miss", "dr": "doctor", "st": "saint"},
  **{"prof": "professor", "etc": "et cetera", "vs": "versus", "no": "number", "jr": "junior"},
}
_SYMBOLS = {"&": " and ", "%": " percent ", "@": " at ", "+": " plus ", "=": " equals "}
_CURRENCIES = {"$": "USD", "\u20ac": "EUR", "\u00a3": "GBP"}
_MONTHS = (
  *("january", "february", "march", "april", "may", "june", "july", "august"),
  *("september", "october", "november", "december"),
)
_MONTH = "|".join(_MONTHS)
_AMOUNT = re.compile(
  r"([$\u20ac\u00a3])\s?(\d[\d,]*(?:\.\d\d)?)(?!\d)"
  r"(?:\s(hundred|thousand|million|billion))?"
)
_ISO_DATE = re.compile(r"\b(\d{4})-(0[1-9]|1[0-2])-([0-3]\d)\b")
_DAY_AFTER_MONTH = re.compile(rf"\b({_MONTH})\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?!:)")
_DAY_BEFORE_MONTH = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})\b")
_TIME = re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b(?!:)")
_ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
_YEAR = re.compile(r"(?<![\d.,])(1[1-9]\d\d|20\d\d)(s\b)?(?![\d]|[.,]\d)")
_NUMBER = re.compile(r"(?<![\w.])(-?)(\d[\d,]*)(?:\.(\d+))?")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")


def code_points(text: str) -> Integer[np.ndarray, "characters"]:
  """Returns the Unicode code points of a text, the tokens of the stream `streams.TEXT`."""
  return np.array([ord(character) for character in text], np.int32)


def of_code_points(points: Integer[np.ndarray, "characters"]) -> str:
  """Inverts `code_points`.

  Raises:
    DataError: a number is not a Unicode code point.
  """
  try:
    return "".join(map(chr, np.asarray(points).tolist()))
  except (ValueError, OverflowError) as error:
    raise DataError(f"the text has a number that is no character ({error})") from error


def normalized(text: str, language: str = ENGLISH) -> str:
  """Returns a text in lower case as it is spoken: numbers, dates and amounts as words.

  Typographic quotes and dashes become ASCII quotes and hyphens. Contractions keep their
  apostrophes. In languages other than English, only numbers become words.

  Args:
    text: the text as written.
    language: language code of num2words, such as "en".

  Raises:
    UserError: the text has digits, and num2words is not installed or does not support the language
      or the number.
  """
  text = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHIC)).lower()
  if language == ENGLISH:
    text = _english(text)
  if re.search(r"\d", text):
    text = _NUMBER.sub(lambda m: _number(m, language), text)
    text = re.sub(r"\d+", lambda m: f" {_words(int(m[0]), language)} ", text)
  text = re.sub(r"\s+", " ", text)
  return re.sub(r" (?=[.,?!;:)])", "", text).strip()


def sentences(text: str, longest: int) -> list[str]:
  """Splits a normalised text into sentences, and long sentences into parts.

  A long sentence is split after a comma, semicolon or colon, or else after a word. A word that is
  too long is split too.

  Args:
    text: a text from `normalized`.
    longest: maximum number of characters of a part, at least 1.

  Returns:
    The parts that contain a letter, a digit or an underscore.
  """
  found: list[str] = []
  for sentence in _SENTENCE_END.split(text):
    while len(sentence) > longest:
      head = sentence[: longest + 1]
      ends = [m.end() for m in re.finditer(r"[,;:] ", head)] or [head.rfind(" ") + 1]
      cut = ends[-1] or longest
      found.append(sentence[:cut].strip())
      sentence = sentence[cut:]
    found.append(sentence.strip())
  return [sentence for sentence in found if re.search(r"\w", sentence)]


def places(text: str, characters: str) -> Integer[np.ndarray, "characters"]:
  """Returns the index of each character of a normalised text in the vocabulary `characters`.

  If an accented letter is not in the vocabulary, the letter without the accent is used.

  Raises:
    DataError: a character is not in the vocabulary, or the text is empty.
  """
  if not text:
    raise DataError("the text is empty; give at least one word")
  place = {character: index for index, character in enumerate(characters)}
  found: list[int] = []
  unknown: dict[str, None] = {}
  for character in text:
    if character not in place:
      plain = unicodedata.normalize("NFKD", character)[0]
      if plain not in place:
        unknown[character] = None
        continue
      character = plain
    found.append(place[character])
  if unknown:
    shown = " ".join(list(unknown)[:8])
    raise DataError(
      f"the text has {shown!a}, which the stage does not know; remove or replace it, the known "
      f"characters are {characters!r}"
    )
  return np.array(found, np.int32)


def _english(text: str) -> str:
  for abbreviation, word in _ABBREVIATIONS.items():
    after = r"(?=\s+\d)" if abbreviation == "no" else ""
    text = re.sub(rf"\b{abbreviation}\.{after}", word, text)
  if re.search(r"\d", text):
    text = _AMOUNT.sub(_amount, text)
    text = _ISO_DATE.sub(lambda m: f"{_MONTHS[int(m[2]) - 1]} {int(m[3])}, {m[1]}", text)
    text = _DAY_AFTER_MONTH.sub(lambda m: f"{m[1]} {_words(int(m[2]), to='ordinal')}", text)
    text = _DAY_BEFORE_MONTH.sub(
      lambda m: f"the {_words(int(m[1]), to='ordinal')} of {m[2]}", text
    ).replace("the the ", "the ")
    text = _TIME.sub(_time, text)
    text = _ORDINAL.sub(lambda m: _words(int(m[1]), to="ordinal"), text)
    text = _YEAR.sub(_year, text)
  for symbol, word in _SYMBOLS.items():
    text = text.replace(symbol, word)
  return text


def _amount(match: re.Match[str]) -> str:
  symbol, number, scale = match.groups()
  value = number.replace(",", "")
  unit = {"USD": "dollars", "EUR": "euros", "GBP": "pounds"}[_CURRENCIES[symbol]]
  if scale:
    return f"{_words(float(value) if '.' in value else int(value))} {scale} {unit}"
  whole, _, cents = value.partition(".")
  one = {"dollars": "dollar", "euros": "euro", "pounds": "pound"}[unit]
  part = f"{_words(int(whole))} {one if int(whole) == 1 else unit}"
  small = ("penny", "pence") if unit == "pounds" else ("cent", "cents")
  return f"{part} and {_words(int(cents))} {small[cents != '01']}" if cents.strip("0") else part


def _year(match: re.Match[str]) -> str:
  year = _words(int(match[1]), to="year")
  if not match[2]:
    return year
  return f"{year[:-1]}ies" if year.endswith("y") else f"{year}s"


def _time(match: re.Match[str]) -> str:
  hour, minute = int(match[1]), int(match[2])
  if minute == 0:
    return f"{_words(hour)} o'clock"
  return f"{_words(hour)} {'oh ' if minute < 10 else ''}{_words(minute)}"


def _number(match: re.Match[str], language: str) -> str:
  sign, whole, decimals = match.groups()
  value = int(whole.replace(",", ""))
  tail = "," if whole.endswith(",") else ""
  if decimals is not None:
    return _words(float(f"{sign}{value}.{decimals}"), language)
  return _words(-value if sign else value, language) + tail


def _words(number: float, language: str = ENGLISH, to: str = "cardinal") -> str:
  try:
    num2words = importlib.import_module("num2words").num2words
  except ModuleNotFoundError as error:
    raise UserError(
      f"the text has the number {number}, which needs num2words ({error}); install it with pip "
      'install "audiolm_jax[text]", or write numbers as words'
    ) from error
  try:
    words = num2words(number, lang=language, to=to)
  except (NotImplementedError, OverflowError) as error:
    raise UserError(
      f"the number {number} cannot be written in {language!r} ({error}); write it as words"
    ) from error
  return words.replace("-", " ").replace(",", "")
