"""The Hugging Face hub, where huggingface_hub is installed."""

import importlib
from typing import Any

from audiolm_jax.core.errors import UserError


def library(what: str, instead: str) -> Any:
  """The module huggingface_hub.

  Args:
    what: begins the sentence where it is missing, such as "to push to".
    instead: what to do without it.
  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module("huggingface_hub")
  except ModuleNotFoundError:
    raise UserError(
      f"{what} the Hugging Face hub, pip install huggingface_hub, or {instead}"
    ) from None


def reason(error: Exception) -> str:
  """What the hub, or the way there, says of itself, in one line."""
  return " ".join(str(error).split()) or type(error).__name__
