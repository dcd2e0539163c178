"""Applies `docstrings.as_parsed` to everything that the reference shows."""

import runpy
from pathlib import Path
from typing import Any

import griffe

_as_parsed = runpy.run_path(str(Path(__file__).with_name("docstrings.py")))["as_parsed"]


class ProjectDocstrings(griffe.Extension):
  """Rewrites each docstring as it is read."""

  def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
    """Called for every module, class, function and attribute."""
    del kwargs
    if obj.docstring is not None:
      obj.docstring.value = _as_parsed(obj.docstring.value)
