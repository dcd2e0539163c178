"""The check of the types and shapes in signatures that pytest applies to the whole package."""

import importlib.machinery
import io
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from beartype import BeartypeConf, FrozenDict, beartype

_AUTOGRAPH = (
  "AutoGraph rewrites the functions that TensorFlow maps, and cannot rewrite checked ones"
)
# By the name of a module that is not checked, the reason.
UNCHECKED = {
  "audiolm_jax.data.feature_converters": _AUTOGRAPH,
  "audiolm_jax.data.preprocessors": _AUTOGRAPH,
  "audiolm_jax.data.sources": _AUTOGRAPH,
  "audiolm_jax.data.tfds_audio": _AUTOGRAPH,
  "audiolm_jax.demo.page": "Gradio streams generator functions only, and a checked one is none",
}
# As for type checkers, an int is also a float, and what `open` and `io` return is a binary file.
_checked = beartype(
  conf=BeartypeConf(
    is_pep484_tower=True, hint_overrides=FrozenDict({BinaryIO: BinaryIO | io.IOBase})
  )
)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function with a check of its arguments and of its result.

  The first call prepares the check, since a process calls a small part of the functions that it
  imports.
  """
  prepared = None

  def call(*arguments: Any, **options: Any) -> Any:
    nonlocal prepared
    if prepared is None:
      prepared = _checked(function)
    return prepared(*arguments, **options)

  return call


class UncheckedFinder:
  """Finds the modules that are not checked, before the import hook of jaxtyping does."""

  @staticmethod
  def find_spec(
    name: str, path: Sequence[str] | None = None, target: object = None
  ) -> importlib.machinery.ModuleSpec | None:
    """Returns how Python loads a module without a check; None for modules that are checked."""
    return importlib.machinery.PathFinder.find_spec(name, path) if name in UNCHECKED else None
