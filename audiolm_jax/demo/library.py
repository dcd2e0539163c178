"""Imports Gradio, which is an optional dependency."""

import importlib
import importlib.util
from types import ModuleType

from audiolm_jax.core.errors import UserError


def load(module: str) -> ModuleType:
  """Returns a module of Gradio or of its dependencies.

  Raises:
    UserError: the module is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise _missing(error) from error


def check_installed() -> None:
  """Raises `UserError` if Gradio is not installed, without importing it."""
  if importlib.util.find_spec("gradio") is None:
    raise _missing("no module named gradio")


def _missing(what: object) -> UserError:
  return UserError(
    f"the demo needs Gradio, which the light install leaves out ({what}): "
    "pip install -r requirements/extras/demo.txt -r requirements/extras/plot.txt, "
    'or pip install "audiolm_jax[demo]"'
  )
