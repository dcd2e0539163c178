"""Checks the values that callers of the public functions and browsers give, of any type.

Configurations in files are checked by `configs`; arguments may also be NumPy scalars.
"""

import enum
import math
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeGuard, TypeVar, cast

from audiolm_jax.core.configs import shown
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.ranges import Range

if TYPE_CHECKING:
  import numpy as np

Choice = TypeVar("Choice", bound=enum.StrEnum)


def whole(value: object, name: str, limits: Range) -> int:
  """Returns a whole number of any type, such as 3, 3.0 or np.int64(3), as an int.

  Raises:
    UserError: the value is not a whole number or lies outside of its range.
  """
  found = _scalar(value)
  if isinstance(found, float) and found.is_integer():
    found = int(found)
  if not isinstance(found, int) or not limits.least <= found <= limits.largest:
    raise UserError(f"{name} is {shown(value)}; give a whole number from {limits}")
  return found


def number(value: object, name: str, limits: Range, also: str = "") -> float:
  """Returns a finite number of any type as a float.

  Args:
    value: the number.
    name: of the value, for messages.
    limits: the least and the largest accepted number.
    also: what else the caller accepts, for messages.

  Raises:
    UserError: the value is not a number or lies outside of its range.
  """
  found = _scalar(value)
  # A comparison with NaN is false. An int may be too large for a float.
  if found is None or not limits.least <= found <= limits.largest:
    words = f", or {also}" if also else ""
    raise UserError(f"{name} is {shown(value)}; give a number from {limits}{words}")
  return float(found)


def array(value: object, name: str, wanted: str) -> "np.ndarray":
  """Returns an array of numbers for anything that NumPy can convert to one.

  Args:
    value: an array, or nested lists of numbers.
    name: of the value, for messages.
    wanted: what the caller accepts, for messages.

  Raises:
    UserError: the value is something else, or nested lists of unequal lengths.
  """
  import numpy as np

  try:
    found = np.asarray(value)
  except Exception as error:  # the types differ between the libraries whose arrays are given
    reason = "lists of unequal lengths" if "inhomogeneous" in str(error) else str(error)
    raise UserError(f"{name} is no array ({shorten(reason)}); give {wanted}") from error
  if found.dtype.kind in "OUSMm":
    raise UserError(f"{name} is {shown(value)}; give {wanted}")
  return found


def path(value: object, name: str, wanted: str) -> str:
  """Returns the path that a text or a path-like object names.

  Raises:
    UserError: the value is something else, or empty.
  """
  if not _is_path(value) or not os.fspath(value):
    raise UserError(f"{name} is {shown(value)}; give {wanted}")
  return os.fsdecode(value)


def names(value: object, name: str, wanted: str) -> tuple[str, ...]:
  """Returns the texts of a collection that is not itself a text.

  Raises:
    UserError: the value is something else.
  """
  if not _are_texts(value):
    raise UserError(f"{name} is {shown(value)}; give {wanted}")
  return tuple(value)


def member(kind: type[Choice], value: object, name: str) -> Choice:
  """Returns the member of an enumeration that has a value.

  Raises:
    UserError: no member has it.
  """
  try:
    return kind(value)
  except ValueError:
    raise UserError(f"{name} {shown(value)} is not one of {', '.join(kind)}") from None


def shorten(text: object) -> str:
  """Returns the beginning of a text as one line."""
  line = " ".join(str(text).split())
  return line if len(line) <= 100 else f"{line[:97]}..."


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
  return isinstance(value, str | os.PathLike)


def _are_texts(value: object) -> TypeGuard[Collection[str]]:
  is_collection = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
  return is_collection and all(isinstance(item, str) for item in cast(Collection[object], value))


def _scalar(value: object) -> int | float | None:
  """Returns a Python number; None if the value is no single number, or is not finite."""
  import numpy as np  # absent where a command only prints what is missing

  if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
    value = cast(object, value.item())
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  return value if isinstance(value, int) or math.isfinite(value) else None
