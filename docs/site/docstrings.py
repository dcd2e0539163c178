"""Converts docstrings to the form that the parser of the reference (griffe) reads.

The parser needs an empty line before each section, and one name per description. The docstrings of
the package have sections without empty lines and may list several names. Unconverted, `Raises` is
shown as text of `Returns`, and attributes such as `low, high: ...` lose their types.
"""

import re

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Source|Yields):")
_LISTS = ("Args", "Attributes")
_SEVERAL_NAMES = re.compile(r"(\s+)(\w+(?:, \w+)+): ")


def as_parsed(text: str) -> str:
  """Separates sections by empty lines, and adds a description for each of several names."""
  lines: list[str] = []
  owed: list[str] = []  # entries of names that share the previous description
  section = ""
  for line in text.splitlines():
    heading = _SECTION.match(line)
    if owed and (heading or not line.strip() or _depth(line) <= _depth(owed[0])):
      lines += owed
      owed = []
    if heading:
      section = heading[1]
      if lines and lines[-1].strip():
        lines.append("")
    names = _SEVERAL_NAMES.match(line) if section in _LISTS else None
    if names:
      first, *others = names[2].split(", ")
      line = f"{names[1]}{first}: {line[names.end() :]}"
      owed = [f"{names[1]}{name}: likewise (see `{first}`)." for name in others]
    lines.append(line)
  return "\n".join(lines + owed)


def _depth(line: str) -> int:
  return len(line) - len(line.lstrip())
