"""Nested parameters to safetensors files and back, and a hash of what they hold."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from audiolm_jax.errors import BundleError

Params = Mapping[str, Any]


def flatten_params(params: Params) -> dict[str, np.ndarray]:
  """Nested parameters as one level of arrays, sorted, the keys joined with "/"."""
  flat: dict[str, np.ndarray] = {}

  def walk(node: Params, prefix: str) -> None:
    for key, value in node.items():
      if not isinstance(key, str) or "/" in key:
        raise BundleError(f"parameter key {prefix}{key!r} cannot be stored; use text without '/'")
      if isinstance(value, Mapping):
        walk(value, f"{prefix}{key}/")
      else:
        flat[prefix + key] = _full_width(np.asarray(value))

  walk(params, "")
  return dict(sorted(flat.items()))


def unflatten_params(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The inverse of `flatten_params`."""
  params: dict[str, Any] = {}
  for name, value in flat.items():
    *folders, leaf = name.split("/")
    node = params
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = value
  return params


def hash_params(params: Params) -> str:
  """16 hexadecimal digits that change with any weight, not with how wide it is stored."""
  digest = hashlib.sha256()
  for name, value in flatten_params(params).items():
    digest.update(f"\n{name} {value.dtype} {value.shape} ".encode())
    digest.update(np.asarray(value, order="C").data)
  return digest.hexdigest()[:16]


def round_to_float16(params: Params, name: str) -> dict[str, Any]:
  """The parameters as a float16 file gives them back.

  Raises:
    BundleError: a weight beyond float16's range.
  """
  flat = flatten_params(params)
  return unflatten_params({key: _narrow(v, f"{name}/{key}", v.dtype) for key, v in flat.items()})


def survives_float16(params: Params) -> bool:
  """Whether float16 holds every weight exactly."""
  return all(
    value.dtype != np.float32 or np.array_equal(_cast(value), value)
    for value in flatten_params(params).values()
  )


def encode_tensors(params: Params, *, float16: bool) -> bytes:
  """The content of a safetensors file; floats stored as float16 or float32."""
  flat = flatten_params(params)
  if float16:
    flat = {key: _narrow(value, key, np.dtype(np.float16)) for key, value in flat.items()}
  return safetensors.numpy.save({key: np.asarray(v, order="C") for key, v in flat.items()})


def load_tensors(path: Path) -> dict[str, Any]:
  """The nested parameters of a safetensors file, floats as float32.

  Raises:
    BundleError: the file is missing or damaged.
  """
  if not path.is_file():
    raise BundleError(f"{path} is missing; the bundle is not whole: copy or export it again")
  try:
    flat = safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
    reason = " ".join(str(error).split())
    raise BundleError(f"{path} is damaged ({reason}); copy or export it again") from error
  return unflatten_params({key: _full_width(flat[key]) for key in sorted(flat)})


def _full_width(value: np.ndarray) -> np.ndarray:
  # np.issubdtype does not know bfloat16; its kind is "V".
  return value if value.dtype.kind in "iub" else value.astype(np.float32, copy=False)


def _narrow(value: np.ndarray, name: str, final: np.dtype) -> np.ndarray:
  if value.dtype != np.float32:
    return value
  narrow = _cast(value)
  if not np.isfinite(narrow).all():
    raise BundleError(
      f"{name} reaches {np.abs(value).max():.3g}, past float16's range; export as float32"
    )
  return narrow.astype(final, copy=False)


def _cast(value: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):
    return value.astype(np.float16)
