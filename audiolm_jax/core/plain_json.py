"""Reads JSON from untrusted sources: limits its size and depth, and rejects invalid text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

# The largest accepted depth. Files of this package are less deep; much deeper values would exhaust
# the stack of Python.
_DEEPEST = 64


def parse(content: str | bytes, most_bytes: int = 1 << 28) -> Any:
  """Returns the value of a JSON text.

  Args:
    content: the text as a string or as bytes in UTF-8.
    most_bytes: largest accepted length of `content`, in characters if it is a string.

  Raises:
    ValueError: the text is too long, is nested too deeply, is not valid UTF-8 or JSON, contains an
      integer of thousands of digits, or contains half of a surrogate pair. Surrogates that Python
      uses for the bytes of file names are accepted. The message is one line.
  """
  if len(content) > most_bytes:
    raise ValueError(f"it has {len(content)} bytes, more than {most_bytes}")
  try:
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    value = json.loads(text)
  except UnicodeDecodeError as error:
    raise ValueError(f"byte {error.start} is not UTF-8") from error
  except RecursionError as error:
    raise ValueError("it is nested too deeply") from error
  except json.JSONDecodeError as error:
    raise ValueError(f"it is not JSON: {error}") from error
  # Only an escape can give half of a surrogate pair.
  _check(value, with_texts="\\ud" in text or "\\uD" in text)
  return value


def is_list(value: object) -> TypeGuard[Sequence[object]]:
  """Returns whether a value is a list or a tuple."""
  return isinstance(value, list | tuple)


def is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
  """Returns whether a value is a mapping, such as a JSON object."""
  return isinstance(value, Mapping)


def _check(value: object, with_texts: bool) -> None:
  """Raises `ValueError` if a value is too deeply nested or has half of a surrogate pair."""
  level = [value]
  for _ in range(_DEEPEST):
    following: list[object] = []
    for item in level:
      if is_mapping(item):
        following += item.values()
        following += item.keys() if with_texts else ()
      elif is_list(item):
        following += item
      elif with_texts and isinstance(item, str):
        _check_text(item)
    if not with_texts:
      following = [item for item in following if isinstance(item, dict | list)]
    if not following:
      return
    level = following
  raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _check_text(text: str) -> None:
  try:
    # Python represents the bytes of a file name that are not UTF-8 by surrogates; accept these.
    text.encode("utf-8", "surrogateescape")
  except UnicodeEncodeError as error:
    raise ValueError(f"the text {text[:40]!r} has half of a surrogate pair") from error
