"""Checks arguments of public functions and values from browsers, which may have any type.

The module `configs` checks the values in configuration files. Unlike these values, arguments may be
NumPy scalars.
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
  """Returns a whole Python or NumPy number, such as 3, 3.0 or np.int64(3), as an int.

  Args:
    value: the number.
    name: name of the value, for messages.
    limits: the accepted range.

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
  """Returns a finite Python or NumPy number as a float.

  Args:
    value: the number.
    name: name of the value, for messages.
    limits: the accepted range.
    also: description of the other values that the caller accepts, for messages.

  Raises:
    UserError: the value is not a finite number or lies outside of its range.
  """
  found = _scalar(value)
  # A comparison with NaN is false. An int may be too large for a float.
  if found is None or not limits.least <= found <= limits.largest:
    words = f", or {also}" if also else ""
    raise UserError(f"{name} is {shown(value)}; give a number from {limits}{words}")
  return float(found)


def array(value: object, name: str, wanted: str) -> "np.ndarray":
  """Returns a value as a NumPy array of numbers or booleans.

  Args:
    value: an array, or nested lists of numbers.
    name: name of the value, for messages.
    wanted: description of the values that the caller accepts, for messages.

  Raises:
    UserError: NumPy cannot convert the value to an array of numbers, for example because lists have
      unequal lengths.
  """
  import numpy as np

  try:
    found = np.asarray(value)
  except Exception as error:  # the exception types differ between array libraries
    reason = "lists of unequal lengths" if "inhomogeneous" in str(error) else str(error)
    raise UserError(f"{name} is no array ({shorten(reason)}); give {wanted}") from error
  if found.dtype.kind in "OUSMm":
    raise UserError(f"{name} is {shown(value)}; give {wanted}")
  return found


def path(value: object, name: str, wanted: str) -> str:
  """Returns a path as a string.

  Args:
    value: a string or a path-like object.
    name: name of the value, for messages.
    wanted: description of the values that the caller accepts, for messages.

  Raises:
    UserError: the value is neither a string nor a path-like object, or the path is empty.
  """
  if not _is_path(value) or not os.fspath(value):
    raise UserError(f"{name} is {shown(value)}; give {wanted}")
  return os.fsdecode(value)


def names(value: object, name: str, wanted: str) -> tuple[str, ...]:
  """Returns the strings of a collection.

  Args:
    value: a collection of strings, such as a list; neither a string nor a mapping.
    name: name of the value, for messages.
    wanted: description of the values that the caller accepts, for messages.

  Raises:
    UserError: the value is not such a collection.
  """
  if not _are_texts(value):
    raise UserError(f"{name} is {shown(value)}; give {wanted}")
  return tuple(value)


def member(kind: type[Choice], value: object, name: str) -> Choice:
  """Returns the member of an enumeration with the given value.

  Raises:
    UserError: no member has this value.
  """
  try:
    return kind(value)
  except ValueError:
    raise UserError(f"{name} {shown(value)} is not one of {', '.join(kind)}") from None


def shorten(text: object) -> str:
  """Returns a text as one line of at most 100 characters."""
  line = " ".join(str(text).split())
  return line if len(line) <= 100 else f"{line[:97]}..."


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
  return isinstance(value, str | os.PathLike)


def _are_texts(value: object) -> TypeGuard[Collection[str]]:
  is_collection = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
  return is_collection and all(isinstance(item, str) for item in cast(Collection[object], value))


def _scalar(value: object) -> int | float | None:
  """Returns a value as a Python number; None if it is not one number or is not finite."""
  import numpy as np  # here, since a command without NumPy must still print an error message

  if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
    value = cast(object, value.item())
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  return value if isinstance(value, int) or math.isfinite(value) else None
