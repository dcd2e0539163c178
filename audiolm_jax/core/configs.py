"""Converts frozen dataclasses to plain JSON values and back."""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from audiolm_jax.core.errors import ConfigError

# The values of a JSON object, to read and to change.
Json = Mapping[str, Any]
JsonDict = dict[str, Any]

T = TypeVar("T")


def to_dict(config: Any) -> JsonDict:
  """Returns a configuration dataclass as JSON values, including nested dataclasses and enums."""
  return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type[T], values: Json) -> T:
  """Returns the instance of `cls` that `to_dict` converted to `values`.

  Where the types of some fields depend on the values of others, the class has a method
  `field_types(values)` that gives them by name.

  Raises:
    ConfigError: `cls` lacks a field of `values`, or a required field is missing.
  """
  fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise ConfigError(
      f"{cls.__name__} has no field {unknown[0]!r}; its fields are {', '.join(sorted(fields))}"
    )
  hints = typing.get_type_hints(cls)
  if hasattr(cls, "field_types"):
    hints |= typing.cast(Any, cls).field_types(values)
  given = {name: _typed(hints[name], value) for name, value in values.items()}
  required = [
    name
    for name, f in fields.items()
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  ]
  missing = [name for name in required if name not in given]
  if missing:
    raise ConfigError(f"{cls.__name__} lacks the required field {missing[0]!r}; add it")
  return cls(**given)


def check_equal(found: object, wanted: object, what: str) -> None:
  """Raises a `ConfigError` that names the fields in which two configurations differ."""
  differing = differences(to_dict(found), to_dict(wanted))
  if differing:
    raise ConfigError(f"{what} has another configuration: {'; '.join(differing)}")


def differences(old: object, new: object) -> list[str]:
  """Returns "field was OLD, is NEW" for each field that differs; nested fields have dotted names.

  Args:
    old: a configuration as `to_dict` returns it.
    new: another one.
  """
  old, new, missing = _flat(old), _flat(new), "(not set)"
  return [
    f"{name} was {old.get(name, missing)}, is {new.get(name, missing)}"
    for name in sorted(old | new)
    if old.get(name, missing) != new.get(name, missing)
  ]


def _flat(values: object, prefix: str = "") -> JsonDict:
  if isinstance(values, Mapping):
    parts = [_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in values.items()]
    return {name: value for part in parts for name, value in part.items()}
  return {prefix: values}


def _plain(value: object) -> Any:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return to_dict(value)
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, (tuple, list)):
    return [_plain(v) for v in value]
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  return value


def _typed(hint: Any, value: Any) -> Any:
  origin = typing.get_origin(hint)
  if origin in (typing.Union, types.UnionType):
    if value is None:
      return None
    choices = [h for h in typing.get_args(hint) if h is not type(None)]
    return _typed(_fitting(choices, value), value)
  if origin is tuple and isinstance(value, (list, tuple)):
    arguments = typing.get_args(hint)
    item = arguments[0] if arguments else Any
    return tuple(_typed(item, v) for v in value)
  if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
    return from_dict(hint, value)
  if isinstance(hint, type) and issubclass(hint, enum.Enum):
    return hint(value)
  return value


def _fitting(choices: list[Any], value: Any) -> Any:
  """Returns the first dataclass of a union that has all fields of `value`, else the first type."""
  if isinstance(value, Mapping):
    for choice in filter(dataclasses.is_dataclass, choices):
      if set(value) <= {f.name for f in dataclasses.fields(choice)}:
        return choice
  return choices[0]
