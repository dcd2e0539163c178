"""Brings the project's docstrings into the form that the reference's parser knows.

It wants an empty line before each section, and one name for each description.
"""

import re

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Source|Yields):")
_LISTS = ("Args", "Attributes")
_SEVERAL_NAMES = re.compile(r"(\s+)(\w+(?:, \w+)+): ")


def as_parsed(text: str) -> str:
  """A docstring with its sections parted, and a description for each of several names."""
  lines: list[str] = []
  owed: list[str] = []  # of names that share the description above
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
