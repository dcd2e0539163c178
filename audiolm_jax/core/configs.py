"""Converts frozen dataclasses to plain JSON values and back, and checks the values it reads."""

import abc
import collections.abc
import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.plain_json import is_list, is_mapping
from audiolm_jax.core.ranges import Range

if TYPE_CHECKING:
  from _typeshed import DataclassInstance
else:
  DataclassInstance = object  # a protocol, which only type checkers know

# The values of a JSON object: read-only, and mutable.
Json = Mapping[str, Any]
JsonDict = dict[str, Any]

T = TypeVar("T", bound=DataclassInstance)

# Limits of values without a declared range.
_LARGEST_INTEGER = 2**53
_LONGEST_TEXT = 4_096
_LONGEST_TUPLE = 256


class DependentTypes(abc.ABC):
  """A configuration with fields whose types depend on the values of other fields."""

  @classmethod
  @abc.abstractmethod
  def field_types(cls, values: Json) -> Mapping[str, type]:
    """Returns the types of the dependent fields by name.

    Args:
      values: the JSON values of the configuration; fields that have defaults may be missing.
    """


class Renewed(abc.ABC):
  """A configuration whose fields had different names or values in earlier versions."""

  @classmethod
  @abc.abstractmethod
  def renewed(cls, values: Json) -> Json:
    """Converts the JSON values of any version to the JSON values of this version."""


def to_dict(config: DataclassInstance) -> JsonDict:
  """Returns a configuration dataclass as JSON values, including nested dataclasses and enums."""
  return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type[T], values: object) -> T:
  """Returns an instance of `cls` from JSON values, such as a result of `to_dict`.

  Fields that `values` lacks have their defaults. See also `DependentTypes` and `Renewed`.

  Raises:
    ConfigError: `values` is not a mapping, `cls` lacks a field of `values`, a required field is
      missing, a value has the wrong type or lies outside of the range that its field declares, or
      the values do not fit each other.
  """
  if not is_mapping(values):
    raise ConfigError(f"{cls.__name__} is {shown(values)}; it must be a JSON object")
  values = cast(Json, values)
  if issubclass(cls, Renewed):
    values = cls.renewed(values)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise ConfigError(
      f"{cls.__name__} has no field {shown(unknown[0])}; its fields are {', '.join(sorted(fields))}"
    )
  required = [
    name
    for name, f in fields.items()
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  ]
  missing = [name for name in required if name not in values]
  if missing:
    raise ConfigError(f"{cls.__name__} lacks the required field {missing[0]!r}; add it")
  hints = typing.get_type_hints(cls, include_extras=True)
  if issubclass(cls, DependentTypes):
    hints |= cls.field_types(values)
  given = {k: checked(hints[k], v, f"{cls.__name__}.{k}") for k, v in values.items()}
  try:
    return cls(**given)
  except ArithmeticError as error:  # each value is plausible, but their combination is not
    raise ConfigError(f"the values of {cls.__name__} do not fit each other: {error}") from error


def set_members(
  config: DataclassInstance, owner: str = "", /, **choices: type[enum.StrEnum]
) -> None:
  """Converts strings in a frozen configuration to members of enumerations.

  Call this function in `__post_init__` of the configuration.

  Args:
    config: the configuration.
    owner: description of the configuration, such as "stage", for messages.
    **choices: the enumeration of each field by name.

  Raises:
    ConfigError: a value is not a member of its enumeration.
  """
  for name, enumeration in choices.items():
    value = getattr(config, name)
    try:
      object.__setattr__(config, name, enumeration(value))
    except ValueError:
      field = f"{owner} {name}".lstrip()
      raise ConfigError(f"{field} {value!r} is not one of {', '.join(enumeration)}") from None


def checked(hint: object, value: Any, name: str) -> Any:
  """Returns a JSON value as an instance of a type.

  Args:
    hint: a type, annotated with a `Range` if the value has a range; values of unknown types are not
      checked.
    value: the JSON value.
    name: name of the value, for messages.

  Raises:
    ConfigError: the value has the wrong type, is not finite, is too long or lies outside of its
      range.
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    value = checked(arguments[0], value, name)
    for limits in arguments[1:]:
      if isinstance(limits, Range) and not limits.least <= value <= limits.largest:
        raise ConfigError(f"{name} is {shown(value)}; it must be {limits}")
    return value
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in arguments:
      return None
    return _alternative([h for h in arguments if h is not type(None)], value, name)
  if origin is typing.Literal:
    return _one_of(arguments, value, name)
  if origin is tuple or hint is tuple:
    return _tuple(arguments, value, name)
  if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
    return _mapping(arguments, value, name)
  if not isinstance(hint, type):
    return value
  if dataclasses.is_dataclass(hint):
    return from_dict(hint, value)
  hint = cast("type[object]", hint)
  if issubclass(hint, enum.Enum):
    return hint(_one_of([item.value for item in hint], value, name))
  return _scalar(hint, value, name)


def shown(value: object) -> str:
  """Returns the representation of a value in one short line, for messages."""
  text = repr(value)
  text = text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
  return " ".join(text.split())


def _one_of(choices: Sequence[object], value: object, name: str) -> object:
  if any(type(value) is type(choice) and value == choice for choice in choices):
    return value
  raise ConfigError(f"{name} is {shown(value)}; it must be one of {', '.join(map(str, choices))}")


def _tuple(arguments: tuple[object, ...], value: object, name: str) -> tuple[object, ...]:
  if not is_list(value) or len(value) > _LONGEST_TUPLE:
    raise ConfigError(f"{name} is {shown(value)}; it must be a list of up to {_LONGEST_TUPLE}")
  if not arguments:
    return tuple(value)
  if arguments[-1] is not Ellipsis and len(arguments) != len(value):
    raise ConfigError(f"{name} is {shown(value)}; it must have {len(arguments)} values")
  items = arguments if arguments[-1] is not Ellipsis else arguments[:1] * len(value)
  return tuple(
    checked(item, v, f"{name}[{i}]") for i, (item, v) in enumerate(zip(items, value, strict=True))
  )


def _mapping(arguments: tuple[object, ...], value: object, name: str) -> dict[object, object]:
  if not is_mapping(value):
    raise ConfigError(f"{name} is {shown(value)}; it must be a JSON object")
  item = arguments[1] if arguments else None  # with the hint None, values are not checked
  return {key: checked(item, v, f"{name}[{shown(key)}]") for key, v in value.items()}


def _scalar(hint: type[object], value: object, name: str) -> object:
  """Returns a number, a boolean or a string after a check; a float may be written as an integer."""
  if hint is float and type(value) is int:
    hint = int
  if hint in (bool, int, float, str) and type(value) is not hint:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    raise ConfigError(f"{name} is {shown(value)}; it must be {words[hint]}")
  if hint is int and isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
    raise ConfigError(f"{name} is {shown(value)}; it must be within {_LARGEST_INTEGER} of 0")
  if isinstance(value, float) and not math.isfinite(value):
    raise ConfigError(f"{name} is {shown(value)}; it must be finite")
  if isinstance(value, str) and len(value) > _LONGEST_TEXT:
    raise ConfigError(f"{name} has {len(value)} characters; it must have at most {_LONGEST_TEXT}")
  return value


def check_equal(found: DataclassInstance, wanted: DataclassInstance, what: str) -> None:
  """Checks that two configurations are equal.

  Args:
    found: the configuration that is checked.
    wanted: the expected configuration.
    what: name of `found`, for messages.

  Raises:
    ConfigError: the configurations differ; the message names the fields that differ.
  """
  differing = differences(to_dict(found), to_dict(wanted))
  if differing:
    raise ConfigError(f"{what} has another configuration: {'; '.join(differing)}")


def differences(old: object, new: object) -> list[str]:
  """Returns "field was OLD, is NEW" for each field that differs; nested fields have dotted names.

  Args:
    old: the old configuration as a result of `to_dict`.
    new: the new configuration as a result of `to_dict`.
  """
  old, new, missing = _flat(old), _flat(new), "(not set)"
  return [
    f"{name} was {old.get(name, missing)}, is {new.get(name, missing)}"
    for name in sorted(old | new)
    if old.get(name, missing) != new.get(name, missing)
  ]


def _flat(values: object, prefix: str = "") -> JsonDict:
  if is_mapping(values):
    parts = [_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in values.items()]
    return {name: value for part in parts for name, value in part.items()}
  return {prefix: values}


def _plain(value: object) -> object:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return to_dict(value)
  if isinstance(value, enum.Enum):
    return value.value
  if is_list(value):
    return [_plain(v) for v in value]
  if is_mapping(value):
    return {str(k): _plain(v) for k, v in value.items()}
  return value


def _alternative(choices: Sequence[object], value: object, name: str) -> object:
  """Returns the value as an instance of the first type in `choices` that accepts it.

  A mapping becomes an instance of the first dataclass that has all fields of the mapping.
  """
  if is_mapping(value):
    for choice in choices:
      if dataclasses.is_dataclass(choice) and set(value) <= {
        f.name for f in dataclasses.fields(choice)
      }:
        return checked(choice, value, name)
  for choice in choices[:-1]:
    try:
      return checked(choice, value, name)
    except ConfigError:
      continue
  return checked(choices[-1], value, name)
