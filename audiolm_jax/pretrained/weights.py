"""Reads published weights: safetensors files with the names and layouts of PyTorch."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from audiolm_jax.core import plain_json, shapes
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import ConfigError, DataError, UserError
from audiolm_jax.core.modules import Params
from audiolm_jax.io import hub

_FILE = "model.safetensors"
_CONFIG = "config.json"
_PICKLE = "pytorch_model.bin"
# The names of magnitude and direction in the two implementations of weight normalization in
# PyTorch.
_NORMALIZED = (
  ("weight_g", "weight_v"),
  ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


class Published(NamedTuple):
  """A published model: its `config.json`, its tensors, the SHA-256 of its weights, its folder."""

  config: JsonDict
  weights: "PublishedWeights"
  sha256: str
  folder: Path


@contextlib.contextmanager
def fields_of(
  published: Json, model_type: str, fixed: Mapping[str, object] = {}, model: str = ""
) -> Iterator[None]:
  """Context manager for code that reads fields of a `config.json` of Hugging Face transformers.

  Args:
    published: content of the file.
    model_type: the required type of the model.
    fixed: required values of fields by name; a field may also be missing.
    model: id of a model with these values, for error messages.

  Raises:
    ConfigError: the type of the model or the value of a field is not as required, or the code in
      the context reads a missing field or fails because of the value of a field.
  """
  found = published.get("model_type")
  if found != model_type:
    raise ConfigError(f"config.json is of a model of type {found!r}, expected {model_type!r}")
  for name, wanted in fixed.items():
    if published.get(name, wanted) != wanted:
      raise ConfigError(
        f"config.json has {name} {published[name]!r}, and only {wanted!r} can be converted; "
        f"use {model}"
      )
  try:
    yield
  except KeyError as error:
    raise ConfigError(
      f"config.json lacks {error}; use the file published with the weights"
    ) from None
  except UserError:  # a subclass of ValueError
    raise
  except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
    reason = " ".join(str(error).split())
    raise ConfigError(
      f"config.json has a field with an invalid value ({reason}); use the file published with the "
      "weights"
    ) from error


class PublishedWeights:
  """Converts published tensors, given by their names, to the layouts of this project.

  Magnitude and direction of a weight-normalized tensor are multiplied. `check_all_used` finds
  tensors that were not converted.
  """

  def __init__(self, tensors: Mapping[str, np.ndarray]):
    self.tensors = dict(tensors)
    self._left = set(tensors)

  def take(self, name: str) -> np.ndarray:
    """Returns the tensor with a name; floating-point numbers become float32.

    Raises:
      DataError: the tensor is missing.
    """
    if name not in self.tensors:
      raise DataError(
        f"the weights lack {name!r}; they are of another model or another version of its format"
      )
    self._left.discard(name)
    value = self.tensors[name]
    return value if value.dtype.kind in "iub" else value.astype(np.float32, copy=False)

  def weight(self, name: str) -> np.ndarray:
    """Returns the weight of a layer: the tensor, or magnitude times direction.

    The direction is first divided by its norm over the axes that share one magnitude.
    """
    for magnitude, direction in _NORMALIZED:
      if f"{name}.{direction}" in self.tensors:
        g, v = self.take(f"{name}.{magnitude}"), self.take(f"{name}.{direction}")
        axes = tuple(i for i, length in enumerate(g.shape) if length == 1)
        norm = np.sqrt(np.sum(np.square(v), axis=axes, keepdims=True))
        return v * (g / norm)
    return self.take(f"{name}.weight")

  def convolution(self, name: str) -> dict[str, np.ndarray]:
    """Returns kernel [taps, inputs, outputs] and bias."""
    kernel = self.weight(name).transpose(2, 1, 0)
    return {"kernel": kernel, "bias": self.take(f"{name}.bias")}

  def dense(self, name: str) -> dict[str, np.ndarray]:
    """Returns kernel [inputs, outputs] and bias."""
    return {"kernel": self.take(f"{name}.weight").T, "bias": self.take(f"{name}.bias")}

  def norm(self, name: str) -> dict[str, np.ndarray]:
    """Returns scale and bias of a normalization."""
    return {"scale": self.take(f"{name}.weight"), "bias": self.take(f"{name}.bias")}

  def strided_convolution(self, name: str) -> dict[str, np.ndarray]:
    """Returns kernel [taps * inputs, outputs], the layout of `StridedConv`, and bias."""
    found = self.convolution(name)
    return found | {"kernel": found["kernel"].reshape(-1, found["kernel"].shape[-1])}

  def transposed_convolution(self, name: str) -> dict[str, np.ndarray]:
    """Returns kernel [inputs, taps * outputs], the layout of `TransposedConv`, and bias."""
    kernel = self.weight(name).transpose(0, 2, 1)
    return {"kernel": kernel.reshape(len(kernel), -1), "bias": self.take(f"{name}.bias")}

  def check_all_used(self) -> None:
    """Raises a `DataError` if a tensor was not used."""
    if self._left:
      raise DataError(
        f"the weights contain {len(self._left)} tensors that the model does not use, such as "
        f"{min(self._left)!r}; they are of another model or another version of its format"
      )

  @staticmethod
  def check_shapes(params: Params, expected: Params) -> None:
    """Raises a `ConfigError` if the shape of a parameter differs from its expected shape."""
    found = shapes.flat(shapes.of_arrays(params))
    for name, wanted in shapes.flat(expected).items():
      if found.get(name) != wanted:
        raise ConfigError(
          f"the weights of {name} have the shape {found.get(name)}, config.json requires "
          f"{wanted}; use the file published with the weights"
        )


def read_published(source: str | os.PathLike[str]) -> Published:
  """Reads `config.json` and `model.safetensors` in the format of Hugging Face transformers.

  Args:
    source: the folder, the safetensors file, or the id of the model on the Hugging Face hub.

  Raises:
    UserError: the model does not exist or its files have another format.
    DataError: a file cannot be read.
  """
  path = Path(source)
  if path.is_dir():
    path = path / _FILE
  elif not path.exists():
    path = _from_hub(os.fspath(source)) / _FILE
  wanted = path.is_file() and path.suffix == ".safetensors"
  if not wanted and (path.parent / _PICKLE).is_file():
    raise UserError(
      f"{path.parent / _PICKLE} is a pickle, which may run any code that it contains, so it is "
      f"not read: convert it to {_FILE} once, as docs/pretrained.md shows"
    )
  if not path.is_file():
    raise UserError(
      f"{path} is missing; use a folder with {_FILE} and {_CONFIG} from the page of the model; if "
      f"that has {_PICKLE} only, docs/pretrained.md shows how to convert it to {_FILE}"
    )
  config_path = path.parent / _CONFIG
  try:
    config = plain_json.parse(config_path.read_bytes())
    if not isinstance(config, dict):
      raise ValueError(f"{_CONFIG} is not a JSON object")
    tensors = safetensors.numpy.load_file(path)
    with open(path, "rb") as file:
      sha256 = hashlib.file_digest(file, "sha256").hexdigest()
  except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
    reason = " ".join(str(error).split())
    raise DataError(f"{path} and {_CONFIG} beside it cannot be read ({reason})") from error
  return Published(config, PublishedWeights(tensors), sha256, path.parent)


def _from_hub(name: str) -> Path:
  library = hub.library(
    f"{name} is neither a folder nor a file; to fetch it from",
    f"download its {_FILE} and {_CONFIG} into a folder and pass that folder",
  )
  try:
    return Path(library.snapshot_download(name, allow_patterns=[_FILE, _CONFIG]))
  except Exception as error:
    raise UserError(
      f"{name} is neither a folder nor a file, and cannot be fetched from the Hugging Face hub "
      f"({hub.reason(error)})"
    ) from error
