"""Nested parameters to safetensors files and back, and a hash of what they hold."""

import enum
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from audiolm_jax.core.errors import BundleError

Params = Mapping[str, Any]

_LEAST_FLOAT16_SCALE = 2.0**-14  # below it float16 has fewer bits
_BLOCK = 64
_LEAST_INT8 = 1024  # what is smaller saves nothing
_SCALE = ":scale"


class Storage(enum.StrEnum):
  """How wide weights are stored; they are always loaded as float32.

  INT8 stores matrices in whole numbers with one scale for each 64, the rest as FLOAT16.
  """

  FLOAT32 = "float32"
  FLOAT16 = "float16"
  INT8 = "int8"


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


def as_stored(params: Params, storage: Storage) -> dict[str, Any]:
  """The parameters as a file written with `storage` gives them back.

  Raises:
    BundleError: a weight beyond float16's range.
  """
  return _unpack(_pack(params, storage))


def survives(params: Params, storage: Storage) -> bool:
  """Whether a file written with `storage` holds every weight exactly."""
  try:
    return hash_params(as_stored(params, storage)) == hash_params(params)
  except BundleError:
    return False


def encode_tensors(params: Params, storage: Storage = Storage.FLOAT32) -> bytes:
  """The content of a safetensors file."""
  flat = _pack(params, storage)
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
  return _unpack(flat)


def is_beside_weights(name: str) -> bool:
  """Whether an entry of a safetensors file is no weights: a scale of INT8, or the file's notes."""
  return name.endswith(_SCALE) or name == "__metadata__"


def _pack(params: Params, storage: Storage) -> dict[str, np.ndarray]:
  packed: dict[str, np.ndarray] = {}
  for name, value in flatten_params(params).items():
    if value.dtype != np.float32 or storage is Storage.FLOAT32:
      packed[name] = value
    elif storage is Storage.INT8 and value.ndim > 1 and value.size >= _LEAST_INT8:
      packed[name], packed[name + _SCALE] = _to_int8(value)
    else:
      packed[name] = _to_float16(value, name)
  return packed


def _unpack(packed: Mapping[str, np.ndarray]) -> dict[str, Any]:
  flat = {}
  for name in sorted(packed):
    if name.endswith(_SCALE):
      continue
    scale = packed.get(name + _SCALE)
    flat[name] = _full_width(packed[name]) if scale is None else _from_int8(packed[name], scale)
  return unflatten_params(flat)


def _to_int8(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Whole numbers in -127..127, and what each block of them counts in."""
  blocks = _in_blocks(value)
  scale = _narrow(np.abs(blocks).max(axis=1) / np.float32(127))
  steps = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
  whole = np.clip(np.rint(blocks / steps), -127, 127).astype(np.int8)
  return whole.ravel()[: value.size].reshape(value.shape), scale


def _narrow(scale: np.ndarray) -> np.ndarray:
  """Scales as storing them again will find them, in float16 where all are in its normal range.

  The largest weight read back is 127 times the scale, rounded; a scale that has been there and
  back once comes back the same ever after, as does every one of float16.
  """
  scale = np.float32(127) * scale / np.float32(127)
  least = np.min(scale, where=scale > 0, initial=np.inf)
  fits = least >= _LEAST_FLOAT16_SCALE and scale.max(initial=0) <= np.finfo(np.float16).max
  return scale.astype(np.float16) if fits else scale


def _from_int8(whole: np.ndarray, scale: np.ndarray) -> np.ndarray:
  blocks = _in_blocks(whole) * scale.astype(np.float32)[:, None]
  return blocks.ravel()[: whole.size].reshape(whole.shape)


def _in_blocks(value: np.ndarray) -> np.ndarray:
  return np.pad(value.ravel(), (0, -value.size % _BLOCK)).reshape(-1, _BLOCK)


def _full_width(value: np.ndarray) -> np.ndarray:
  # np.issubdtype does not know bfloat16; its kind is "V".
  return value if value.dtype.kind in "iub" else value.astype(np.float32, copy=False)


def _to_float16(value: np.ndarray, name: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    narrow = value.astype(np.float16)
  if not np.isfinite(narrow).all():
    raise BundleError(
      f"{name} reaches {np.abs(value).max():.3g}, past float16's range; export as float32"
    )
  return narrow
