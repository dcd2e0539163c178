"""Gradio, where it is installed."""

import importlib
import importlib.util
from typing import Any

from audiolm_jax.core.errors import UserError


def load(module: str) -> Any:
  """A module of Gradio, or of what comes with it.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise _missing(error) from error


def check_installed() -> None:
  """Raises `UserError` where Gradio is not installed; does not import it yet."""
  if importlib.util.find_spec("gradio") is None:
    raise _missing("no module named gradio")


def _missing(what: object) -> UserError:
  return UserError(
    f"the demo needs Gradio, which the light install leaves out ({what}): "
    "pip install -r requirements/extras/demo.txt -r requirements/extras/plot.txt, "
    'or pip install "audiolm_jax[demo]"'
  )
