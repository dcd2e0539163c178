"""Reads and writes nested parameters as safetensors files, and hashes them."""

import enum
import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.numpy

from audiolm_jax.core import plain_json, shapes
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import BundleError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.plain_json import is_mapping

_LEAST_FLOAT16_SCALE = 2.0**-14  # smaller float16 values are subnormal and less precise
_BLOCK = 64
_LEAST_INT8 = 1024  # weights; int8 saves no space in smaller arrays
_SCALE = ":scale"
_LARGEST_HEADER, _LARGEST_FILE = 1 << 24, 1 << 36  # bytes
FLOATS, _INT8 = ("F32", "F16", "BF16"), "I8"


class Storage(enum.StrEnum):
  """The number format of stored floats, which are always loaded as float32.

  INT8 stores arrays of two or more axes and at least 1024 floats as 8-bit integers, with one scale
  per 64 floats. It stores all other floats like FLOAT16. All formats leave integers unchanged.
  """

  FLOAT32 = "float32"
  FLOAT16 = "float16"
  INT8 = "int8"


def flatten_params(params: Params) -> dict[str, np.ndarray]:
  """Returns nested parameters as a flat, sorted dictionary whose keys are joined with "/".

  Floats of any width become float32.

  Raises:
    BundleError: a key is not a text or contains "/".
  """
  flat: dict[str, np.ndarray] = {}

  def walk(node: Mapping[object, object], prefix: str) -> None:
    for key, value in node.items():
      if not isinstance(key, str) or "/" in key:
        raise BundleError(f"parameter key {prefix}{key!r} cannot be stored; use text without '/'")
      if is_mapping(value):
        walk(value, f"{prefix}{key}/")
      else:
        flat[prefix + key] = _full_width(np.asarray(value))

  walk(cast(Mapping[object, object], params), "")
  return dict(sorted(flat.items()))


def unflatten_params(flat: Mapping[str, np.ndarray]) -> Params:
  """Returns nested parameters from a flat dictionary with the keys of `flatten_params`."""
  params: dict[str, Any] = {}
  for name, value in flat.items():
    *folders, leaf = name.split("/")
    node = params
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = value
  return params


def hash_params(params: Params) -> str:
  """Hashes the names, shapes, types and values of all weights to 16 hexadecimal digits.

  Floats are hashed as float32, so equal values of different float types have equal hashes.
  """
  digest = hashlib.sha256()
  for name, value in flatten_params(params).items():
    digest.update(f"\n{name} {value.dtype} {value.shape} ".encode())
    digest.update(np.asarray(value, order="C").data)
  return digest.hexdigest()[:16]


def as_stored(params: Params, storage: Storage) -> Params:
  """Returns the parameters as they are after they are stored in the format `storage` and loaded.

  Raises:
    BundleError: a weight that is stored as float16 is not finite or is out of the range of float16.
  """
  return _unpack(_pack(params, storage))


def survives(params: Params, storage: Storage) -> bool:
  """Returns whether `storage` preserves every weight exactly."""
  try:
    return hash_params(as_stored(params, storage)) == hash_params(params)
  except BundleError:
    return False


def encode_tensors(params: Params, storage: Storage = Storage.FLOAT32) -> bytes:
  """Returns the content of a safetensors file with the parameters.

  Raises:
    BundleError: see `as_stored`.
  """
  flat = _pack(params, storage)
  return safetensors.numpy.save({key: np.asarray(v, order="C") for key, v in flat.items()})


def load_tensors(path: Path, expected: shapes.Shapes, types: Sequence[str] = FLOATS) -> Params:
  """Returns the nested parameters of a safetensors file; floats of any width become float32.

  Args:
    path: the file.
    expected: the shapes of all parameters. The header of the file is compared with these shapes
      before any array is read.
    types: accepted types of arrays in the file. Arrays of `Storage.INT8` are always accepted.

  Raises:
    BundleError: the file is missing or damaged, its parameters are not the expected ones, or
      weights are not finite or so large that their sum is not finite.
  """
  _check_header(path, read_header(path), shapes.flat(expected), types)
  try:
    flat = safetensors.numpy.load_file(path)  # pyright: ignore[reportUnknownMemberType]: PathLike of any
  except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
    reason = " ".join(str(error).split())[:300]
    raise BundleError(f"{path} is damaged ({reason}); copy or export it again") from error
  for name, value in flat.items():
    if not _is_finite(value):
      raise BundleError(f"{path}: {name} has a weight that is not finite or too large")
  return _unpack(flat)


def _is_finite(value: np.ndarray) -> bool:
  if value.dtype.kind in "iu":
    return True
  if value.dtype == np.float16:  # all bits of the exponent of NaN and infinity are 1
    return not ((value.view(np.uint16) & 0x7C00) == 0x7C00).any()
  # A sum is finite only if all terms are finite, and it is faster than a test of each term.
  with np.errstate(over="ignore", invalid="ignore"):
    return bool(np.isfinite(value.astype(np.float32, copy=False).sum()))


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Returns type and shape of each array of a safetensors file, by name; reads only the header.

  Raises:
    BundleError: the file is missing, is not a regular file, or has no valid header.
  """
  if not path.is_file():
    raise BundleError(f"{path} is missing and the bundle incomplete; copy or export it again")
  try:
    size = path.stat().st_size
    if size > _LARGEST_FILE:
      raise ValueError(f"it has {size} bytes, more than {_LARGEST_FILE}")
    with open(path, "rb") as file:
      (length,) = struct.unpack("<Q", file.read(8))
      if length > min(size, _LARGEST_HEADER):
        raise ValueError(f"its header would have {length} bytes")
      header = plain_json.parse(file.read(length))
    header.pop("__metadata__", None)
    return {name: _described(entry) for name, entry in header.items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
    reason = " ".join(str(error).split())[:300]
    raise BundleError(f"{path} is damaged ({reason}); copy or export it again") from error


def count_weights(header: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
  """Returns the number of weights in a file with this header; does not count the scales of INT8."""
  return sum(math.prod(shape) for name, (_, shape) in header.items() if not name.endswith(_SCALE))


def _described(entry: Json) -> tuple[str, tuple[int, ...]]:
  kind, shape = entry["dtype"], entry["shape"]
  if not isinstance(kind, str) or any(type(n) is not int or n < 0 for n in shape):
    raise ValueError(f"an array of type {kind!r} and shape {shape!r}")
  return kind, tuple(shape)


def _check_header(
  path: Path,
  header: Mapping[str, tuple[str, tuple[int, ...]]],
  expected: Mapping[str, tuple[int, ...]],
  types: Sequence[str],
) -> None:
  """Raises `BundleError` if the header's names, shapes or types are not the expected ones."""
  fix = "export the bundle again"
  for name, shape in expected.items():
    kind, found = header.get(name, ("", None))
    if found != shape:
      raise BundleError(
        f"{path} has {name} of shape {found}, the configuration in bundle.json needs {shape}; {fix}"
        if found is not None
        else f"{path} lacks {name} of shape {shape}, which the configuration in bundle.json needs; "
        f"{fix}"
      )
    scale = header.get(name + _SCALE)
    if scale and scale[1] != (-(-math.prod(shape) // _BLOCK),):
      raise BundleError(f"{path} has scales of shape {scale[1]} for {name} of {shape}; {fix}")
    if kind not in types and not (kind == _INT8 and scale):
      raise BundleError(f"{path} has {name} of type {kind}; it must be one of {types}; {fix}")
  for name, (kind, _) in header.items():
    if name.removesuffix(_SCALE) not in expected or (name.endswith(_SCALE) and kind not in FLOATS):
      raise BundleError(f"{path} has {name!r}, which its configuration does not name; {fix}")


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


def _unpack(packed: Mapping[str, np.ndarray]) -> Params:
  flat: dict[str, np.ndarray] = {}
  for name in sorted(packed):
    if name.endswith(_SCALE):
      continue
    scale = packed.get(name + _SCALE)
    flat[name] = _full_width(packed[name]) if scale is None else _from_int8(packed[name], scale)
  return unflatten_params(flat)


def _to_int8(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the weights as integers in -127..127, and the scale of each block of 64 weights."""
  blocks = _in_blocks(value)
  scale = _narrow(np.abs(blocks).max(axis=1) / np.float32(127))
  steps = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
  whole = np.clip(np.rint(blocks / steps), -127, 127).astype(np.int8)
  return whole.ravel()[: value.size].reshape(value.shape), scale


def _narrow(scale: np.ndarray) -> np.ndarray:
  """Returns rounded scales, which do not change when loaded weights are stored again.

  If loaded weights are stored again, each scale is computed as `127 * scale / 127` in float32. This
  function rounds in the same way; a second rounding has no effect. If all nonzero scales are in the
  range of normal float16 numbers, scales become float16, which this rounding does not change.
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
  # np.issubdtype does not support bfloat16, whose kind is "V".
  return value if value.dtype.kind in "iub" else value.astype(np.float32, copy=False)


def _to_float16(value: np.ndarray, name: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    narrow = value.astype(np.float16)
  if not np.isfinite(narrow).all():
    raise BundleError(
      f"{name} reaches {np.abs(value).max():.3g}, past float16's range; export as float32"
    )
  return narrow
