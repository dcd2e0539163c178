"""Imports classes by name, so that their modules are loaded only when they are needed."""

import importlib
from typing import Any


def imported(home: str) -> Any:
  """Returns the class at "module:class", and imports its module."""
  module, _, name = home.partition(":")
  return getattr(importlib.import_module(module), name)
