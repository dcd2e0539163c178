"""Gradio, where it is installed."""

import importlib
from typing import Any

from audiolm_jax.errors import UserError


def load(module: str) -> Any:
  """A module of Gradio, or of what comes with it.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise UserError(
      f"the demo needs Gradio, which the light install leaves out ({error}): "
      "pip install -r requirements/extras/demo.txt -r requirements/extras/plot.txt, "
      'or pip install "audiolm_jax[demo]"'
    ) from error
