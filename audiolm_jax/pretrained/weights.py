"""Weights as others publish them: safetensors with PyTorch's names and layouts."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from audiolm_jax.core.errors import ConfigError, DataError, UserError
from audiolm_jax.io import hub

_FILE = "model.safetensors"
_CONFIG = "config.json"
_PICKLE = "pytorch_model.bin"
# Magnitude and direction under the names of PyTorch's two kinds of weight normalization.
_NORMALIZED = (
  ("weight_g", "weight_v"),
  ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


class Published(NamedTuple):
  """A published model: its `config.json`, its tensors, its file's SHA-256, and its folder."""

  config: dict[str, Any]
  weights: "PublishedWeights"
  sha256: str
  folder: Path


class PublishedWeights:
  """Tensors by their published name, each to be taken once, in the layouts of this project.

  Weight normalization, under either of PyTorch's names, is multiplied out.
  """

  def __init__(self, tensors: Mapping[str, np.ndarray]):
    self.tensors = dict(tensors)
    self._left = set(tensors)

  def take(self, name: str) -> np.ndarray:
    """The tensor of that name, floats as float32.

    Raises:
      DataError: there is none.
    """
    if name not in self.tensors:
      raise DataError(
        f"the weights lack {name!r}; they are of another model or another version of its format"
      )
    self._left.discard(name)
    value = self.tensors[name]
    return value if value.dtype.kind in "iub" else value.astype(np.float32, copy=False)

  def weight(self, name: str) -> np.ndarray:
    """The weight of a layer: as it is, or magnitude times direction.

    A direction has length 1 over the axes along which there is one magnitude.
    """
    for magnitude, direction in _NORMALIZED:
      if f"{name}.{direction}" in self.tensors:
        g, v = self.take(f"{name}.{magnitude}"), self.take(f"{name}.{direction}")
        axes = tuple(i for i, length in enumerate(g.shape) if length == 1)
        norm = np.sqrt(np.sum(np.square(v), axis=axes, keepdims=True))
        return v * (g / norm)
    return self.take(f"{name}.weight")

  def convolution(self, name: str) -> dict[str, np.ndarray]:
    """Kernel [taps, inputs, outputs] and bias."""
    kernel = self.weight(name).transpose(2, 1, 0)
    return {"kernel": kernel, "bias": self.take(f"{name}.bias")}

  def dense(self, name: str) -> dict[str, np.ndarray]:
    """Kernel [inputs, outputs] and bias."""
    return {"kernel": self.take(f"{name}.weight").T, "bias": self.take(f"{name}.bias")}

  def norm(self, name: str) -> dict[str, np.ndarray]:
    """Scale and bias of a normalization."""
    return {"scale": self.take(f"{name}.weight"), "bias": self.take(f"{name}.bias")}

  def strided_convolution(self, name: str) -> dict[str, np.ndarray]:
    """Kernel [taps * inputs, outputs], as of `StridedConv`, and bias."""
    found = self.convolution(name)
    return found | {"kernel": found["kernel"].reshape(-1, found["kernel"].shape[-1])}

  def transposed_convolution(self, name: str) -> dict[str, np.ndarray]:
    """Kernel [inputs, taps * outputs], as of `TransposedConv`, and bias."""
    kernel = self.weight(name).transpose(0, 2, 1)
    return {"kernel": kernel.reshape(len(kernel), -1), "bias": self.take(f"{name}.bias")}

  def check_all_used(self) -> None:
    """Raises `DataError` where a tensor was not taken."""
    if self._left:
      raise DataError(
        f"the weights hold {len(self._left)} tensors that the model has no place for, such as "
        f"{min(self._left)!r}; they are of another model or another version of its format"
      )

  @staticmethod
  def check_shapes(params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where a parameter is of another shape than the configuration says."""
    found = {
      jax.tree_util.keystr(k): v.shape for k, v in jax.tree_util.tree_leaves_with_path(params)
    }
    for path, wanted in jax.tree_util.tree_leaves_with_path(expected):
      name = jax.tree_util.keystr(path)
      if found.get(name) != wanted.shape:
        raise ConfigError(
          f"the weights of {name} have the shape {found.get(name)}, config.json says "
          f"{wanted.shape}; take the one that is beside the weights"
        )


def read_published(source: str | os.PathLike[str]) -> Published:
  """A model in the format of transformers: `config.json` beside `model.safetensors`.

  Args:
    source: the folder, the safetensors file, or the model's id on the Hugging Face hub.
  Raises:
    UserError: it is not there or cannot be read.
  """
  path = Path(source)
  if path.is_dir():
    path = path / _FILE
  elif not path.exists():
    path = _from_hub(os.fspath(source)) / _FILE
  wanted = path.is_file() and path.suffix == ".safetensors"
  if not wanted and (path.parent / _PICKLE).is_file():
    raise UserError(
      f"{path.parent / _PICKLE} is a pickle, which may run any code that is in it, so it is not "
      f"read here: turn it into {_FILE} once, as docs/pretrained.md shows"
    )
  if not path.is_file():
    raise UserError(
      f"{path} is missing; give a folder with {_FILE} and {_CONFIG}, as the model's page has "
      f"them; where it has {_PICKLE} only, docs/pretrained.md shows how to turn it into {_FILE}"
    )
  config_path = path.parent / _CONFIG
  try:
    config = json.loads(config_path.read_text(encoding="utf-8"))
    tensors = safetensors.numpy.load_file(path)
    with open(path, "rb") as file:
      sha256 = hashlib.file_digest(file, "sha256").hexdigest()
  except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
    reason = " ".join(str(error).split())
    raise DataError(f"{path} and {_CONFIG} beside it cannot be read ({reason})") from error
  return Published(config, PublishedWeights(tensors), sha256, path.parent)


def _from_hub(name: str) -> Path:
  library = hub.library(
    f"{name} is no folder and no file; to fetch it from",
    f"download its {_FILE} and {_CONFIG} into a folder and give that",
  )
  try:
    return Path(library.snapshot_download(name, allow_patterns=[_FILE, _CONFIG]))
  except Exception as error:
    raise UserError(
      f"{name} is no folder and no file, and cannot be fetched from the Hugging Face hub "
      f"({hub.reason(error)})"
    ) from error
