import runpy
from pathlib import Path

SITE = Path(__file__).parents[2] / "docs/site"
as_parsed = runpy.run_path(str(SITE / "docstrings.py"))["as_parsed"]


def test_sections_are_parted_by_empty_lines():
  text = "Does it.\n\nArgs:\n  x: one.\nReturns:\n  Two.\nSource: a paper."
  parted = "Does it.\n\nArgs:\n  x: one.\n\nReturns:\n  Two.\n\nSource: a paper."
  assert as_parsed(text) == parted


def test_each_of_several_names_has_a_description():
  text = "A config.\n\nAttributes:\n  low, high: of the\n    interval.\n  n: how many."
  assert as_parsed(text).splitlines()[3:] == [
    "  low: of the",
    "    interval.",
    "  high: likewise (see `low`).",
    "  n: how many.",
  ]


def test_a_list_of_names_at_the_end_is_not_forgotten():
  assert as_parsed("Args:\n  a, b: of both.").endswith("  b: likewise (see `a`).")


def test_text_outside_the_lists_stays():
  text = "First.\n\n  one, two: in the text.\n\nReturns:\n  a, b: as they are."
  assert as_parsed(text) == text
