"""Applies `docstrings.as_parsed` to all docstrings of the reference."""

import runpy
from pathlib import Path
from typing import Any

import griffe

_as_parsed = runpy.run_path(str(Path(__file__).with_name("docstrings.py")))["as_parsed"]


class ProjectDocstrings(griffe.Extension):
  """Converts each docstring when it is loaded."""

  def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
    """Converts the docstring of a module, class, function or attribute."""
    del kwargs
    if obj.docstring is not None:
      obj.docstring.value = _as_parsed(obj.docstring.value)
