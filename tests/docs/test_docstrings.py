"""Docstrings have the format that griffe, the parser of the reference, reads as Google style."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Source|Yields):(.*)")
_LISTS = ("Args", "Attributes")
_SEVERAL_NAMES = re.compile(r" +\w+(?:, \w+)+: ")


def docstrings(text: str) -> Iterator[tuple[int, str]]:
  """Yields the line and the text of each docstring, those of attributes included."""
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
      for statement in node.body:
        match statement:
          case ast.Expr(ast.Constant(str(docstring))):
            yield statement.lineno, inspect.cleandoc(docstring)


def faults(docstring: str) -> list[tuple[int, str]]:
  """Returns the line (0 is the first one) and the fault of each part that would be misread."""
  found, section = [], ""
  lines = docstring.splitlines()
  for number, line in enumerate(lines):
    heading = _SECTION.fullmatch(line)
    if heading:
      section, text = heading[1], heading[2].strip()
      if number and lines[number - 1].strip():
        found.append((number, f"no empty line before {section}"))
      if text and (section != "Source" or "".join(lines[number + 1 : number + 2]).startswith(" ")):
        found.append((number, f"indented text of {section} starts in its own line"))
    elif section in _LISTS and _SEVERAL_NAMES.match(line):
      found.append((number, "several names in one entry"))
  return found


def test_docstrings_are_in_googles_format():
  wrong = [
    f"{path.relative_to(REPO)}:{line + number}: {fault}"
    for path in sorted(REPO.glob("audiolm_jax/**/*.py"))
    for line, docstring in docstrings(path.read_text(encoding="utf-8"))
    for number, fault in faults(docstring)
  ]
  assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
  ("docstring", "found"),
  [
    ("Does it.\n\nArgs:\n  x: one.\n\nReturns:\n  Two.\n\nSource: a paper.", []),
    ("Does it.\n\nArgs:\n  x: one.\nReturns:\n  Two.", [(4, "no empty line before Returns")]),
    ("Does it.\nArgs:\n  x: one.", [(1, "no empty line before Args")]),
    ("A config.\n\nAttributes:\n  low, high: of it.", [(3, "several names in one entry")]),
    ("Text.\n\n  one, two: in the text.\n\nReturns:\n  a, b: as they are.", []),
    (
      "Text.\n\nSource: a paper, which has a\n  long title.",
      [(2, "indented text of Source starts in its own line")],
    ),
    ("Text.\n\nSource:\n  A paper, which has a\n  long title.", []),
    ("Text.\n\nSource: a paper, which has a\nlong title.", []),
  ],
)
def test_faults_are_found(docstring, found):
  assert faults(docstring) == found
