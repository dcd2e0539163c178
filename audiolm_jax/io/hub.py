"""Access to the Hugging Face hub, which needs the package huggingface_hub."""

import importlib
from types import ModuleType

from audiolm_jax.core.errors import UserError


def library(what: str, instead: str) -> ModuleType:
  """Imports and returns the module huggingface_hub.

  Args:
    what: the beginning of the error message, such as "to push to".
    instead: the end of the error message, an alternative that does not need the package.

  Raises:
    UserError: huggingface_hub is not installed.
  """
  try:
    return importlib.import_module("huggingface_hub")
  except ModuleNotFoundError:
    raise UserError(
      f"{what} the Hugging Face hub, pip install huggingface_hub, or {instead}"
    ) from None


def reason(error: Exception) -> str:
  """Returns the message of an error of the hub or of the network as one line."""
  return " ".join(str(error).split()) or type(error).__name__
