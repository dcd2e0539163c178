"""Lyra v2, Google's causal codec for speech, with the `Codec` protocol, and its weights.

The published files compute some of the layers in int8. Here all layers compute in float32, with the
same weights and with outputs limited to the same ranges. So latents and waveforms differ from the
results of the files only by the rounding of int8.

Source: github.com/google/lyra; Zeghidour, Luebs, Omran, Skoglund and Tagliasacchi, "SoundStream: An
End-to-End Neural Audio Codec", 2021 (arXiv 2107.03312).
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError, DataError, UserError
from audiolm_jax.core.modules import Params
from audiolm_jax.pretrained.lyra_layers import (
  DILATIONS,
  NO_LIMITS,
  SLOPE,
  LyraConfig,
)
from audiolm_jax.pretrained.tflite_file import Operation, read_operations
from audiolm_jax.pretrained.weights import Published, PublishedWeights

_ENCODER, _QUANTIZER, _DECODER = "soundstream_encoder", "quantizer", "lyragan"
# In the order in which their bytes are hashed.
FILES = tuple(f"{name}.tflite" for name in (_ENCODER, _QUANTIZER, _DECODER))

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


def read_files(source: str | os.PathLike[str]) -> Published:
  """Reads the three TFLite files of the model.

  The name of a tensor contains the name of its file and the number of its layer or quantizer level.
  The hash is computed from the bytes of all files.

  Args:
    source: the folder of the files.

  Raises:
    UserError: a file is missing or cannot be read, or the package tflite is not installed.
    DataError: a file is damaged or does not belong to Lyra v2.
  """
  folder, contents = Path(source), []
  for name in FILES:
    try:
      contents.append((folder / name).read_bytes())
    except OSError as error:
      raise UserError(
        f"cannot read {folder / name}: {error.strerror}; use a folder with {', '.join(FILES)}, "
        "which are in lyra/model_coeffs of github.com/google/lyra"
      ) from error
  graphs = [
    read_operations(str(folder / name), content)
    for name, content in zip(FILES, contents, strict=True)
  ]
  try:
    encoder, tables, decoder = graphs[0]["main"], _tables(graphs[1]["encode"]), graphs[2]["main"]
    tensors = _layers(_ENCODER, encoder) | _layers(_DECODER, decoder)
    convolutions = [x for x in encoder if x.kind in _CONVOLUTIONS]
    first, last = convolutions[0].constant(1), convolutions[-1].constant(1)
    config = {
      "model_type": "lyra_v2",
      "channels": first.shape[0],
      "strides": [int(x.options["StrideH"]) for x in convolutions if x.options["StrideH"] > 1],
      "latent_dim": last.shape[0],
      "num_quantizers": len(tables),
      "codebook_size": tables[0].shape[-2],
      "dilations": _settings(encoder + decoder, "DEPTHWISE_CONV_2D", "DilationHFactor"),
      "slopes": _settings(encoder + decoder, "LEAKY_RELU", "Alpha"),
    }
  except LookupError as error:
    raise DataError(
      f"the files in {folder} are of another model; use those in lyra/model_coeffs of "
      "github.com/google/lyra"
    ) from error
  tensors |= {f"{_QUANTIZER}.{i}": table for i, table in enumerate(tables)}
  sha256 = hashlib.sha256(b"".join(contents)).hexdigest()
  return Published(config, PublishedWeights(tensors), sha256, folder)


def _settings(operations: list[Operation], kind: str, name: str) -> list[float]:
  return sorted({round(x.options[name], 6) for x in operations if x.kind == kind})


def _layers(name: str, operations: list[Operation]) -> dict[str, np.ndarray]:
  """Returns, by name, kernel, bias and limits of each convolution, and limits of residual sums."""
  found: dict[str, np.ndarray] = {}
  # The first operation that reads a tensor.
  readers = {index: x for x in reversed(operations) for index in x.inputs}
  for i, layer in enumerate(x for x in operations if x.kind in _CONVOLUTIONS):
    # The first input of a transposed convolution is the shape of its output, the third its input.
    bias = layer.constant(3 if layer.kind == "TRANSPOSE_CONV" else 2)
    found |= {f"{name}.{i}.weight": layer.constant(1), f"{name}.{i}.bias": bias}
    if layer.kind == "TRANSPOSE_CONV":
      continue
    found[f"{name}.{i}.limits"] = _limits(layer, readers)
    reader = readers.get(layer.output)
    if reader is not None and reader.kind == "DEQUANTIZE":
      reader = readers.get(reader.output)
    if reader is not None and reader.kind == "ADD":
      found[f"{name}.{i}.sum_limits"] = _limits(reader, readers)
  return found


def _limits(operation: Operation, readers: dict[int, Operation]) -> np.ndarray:
  """Returns the smallest and the largest output that int8 allows; `NO_LIMITS` for float32."""
  limits, reader = operation.limits, readers.get(operation.output)
  if limits is None and reader is not None and reader.kind == "QUANTIZE":
    limits = reader.limits
  elif limits is None and reader is not None and reader.kind == "LEAKY_RELU":
    after = readers.get(reader.output)
    if after is not None and after.kind == "QUANTIZE" and after.limits is not None:
      limits = after.limits[0] / SLOPE, after.limits[1]
  return np.array(limits or NO_LIMITS, np.float32)


def _tables(operations: list[Operation]) -> list[np.ndarray]:
  """Returns the codebooks in the order in which the levels are searched."""
  return [x.constant(1) for x in operations if x.kind == "SQUARED_DIFFERENCE"]


def read_config(published: Json) -> LyraConfig:
  """Returns the configuration of a model from the settings that `read_files` returns.

  Raises:
    ConfigError: the dilations or the slope differ from those of Lyra v2.
  """
  for name, wanted in (("dilations", sorted(DILATIONS)), ("slopes", [SLOPE])):
    if published[name] != wanted:
      raise ConfigError(
        f"the files have {name} {published[name]}, and only {wanted} can be converted; use those "
        "in lyra/model_coeffs of github.com/google/lyra"
      )
  return LyraConfig(
    channels=published["channels"],
    strides=tuple(published["strides"]),
    latent_dim=published["latent_dim"],
    num_quantizers=published["num_quantizers"],
    codebook_size=published["codebook_size"],
  )


def convert(published: Json, weights: PublishedWeights) -> ResidualCodec:
  """Returns the codec of the published files with all levels.

  Args:
    published: the settings that `read_files` returns.
    weights: the tensors that `read_files` returns.

  Raises:
    ConfigError: `published` is invalid, see `read_config`, or a tensor has a wrong shape.
    DataError: a tensor is missing, unused or does not belong to Lyra v2.
  """
  config = read_config(published)
  encoder, decoder = _Layers(weights, _ENCODER), _Layers(weights, _DECODER)
  blocks = tuple(enumerate(config.blocks))
  encoding = {"input": encoder.convolution()}
  for i, _ in blocks:
    encoding |= encoder.units(i)
    encoding[f"block_{i}_down"] = encoder.convolution()
  encoding["output"] = encoder.convolution()
  decoding = {"input": decoder.convolution()}
  for i, (_, groups, _) in reversed(blocks):
    decoding[f"block_{i}_up"] = decoder.transposed(groups)
    decoding |= decoder.units(i)
  decoding["output"] = decoder.transposed(1)
  books = [weights.take(f"{_QUANTIZER}.{i}") for i in range(config.num_quantizers)]
  weights.check_all_used()
  codebooks = np.concatenate(books).reshape(-1, *books[0].shape[-2:])
  params = {"encoder": encoding, "decoder": decoding, "codebooks": codebooks}
  weights.check_shapes(params, config.parameter_shapes())
  return ResidualCodec(config, params)


class _Layers:
  """Converts the convolutions of one file in the order of its graph."""

  def __init__(self, weights: PublishedWeights, name: str):
    self._weights, self._name, self._next = weights, name, 0

  def _take(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel [outputs, taps, inputs] and the bias of the next layer."""
    name = f"{self._name}.{self._next}"
    self._next += 1
    return self._weights.take(f"{name}.weight")[:, :, 0], self._weights.take(f"{name}.bias")

  def convolution(self) -> Params:
    limits = self._weights.take(f"{self._name}.{self._next}.limits")
    kernel, bias = self._take()
    return {"kernel": kernel.transpose(1, 2, 0), "bias": bias, "limits": limits}

  def transposed(self, groups: int) -> Params:
    """Merges the next `groups` layers, one layer per group, into one transposed convolution."""
    layers = [self._take() for _ in range(groups)]
    kernels = [kernel.transpose(2, 1, 0) for kernel, _ in layers]
    biases = [bias for _, bias in layers]
    return {"kernel": np.concatenate(kernels, axis=-1), "bias": np.concatenate(biases)}

  def units(self, block: int) -> Params:
    return {f"block_{block}_unit_{j}": self._unit() for j in range(len(DILATIONS))}

  def _unit(self) -> Params:
    name = f"{self._name}.{self._next}"
    kernel, bias = self._weights.take(f"{name}.weight"), self._weights.take(f"{name}.bias")
    self._next += 1
    if np.any(bias):
      raise DataError(f"{name}.bias is not zero; the file is of another model")
    limits = self._weights.take(f"{name}.limits")
    return {
      "dilated": {"kernel": kernel.reshape(-1, kernel.shape[-1]), "limits": limits},
      "dense": self.convolution(),
      "grouped": self.convolution(),
      "limits": self._weights.take(f"{self._name}.{self._next - 1}.sum_limits"),
    }
