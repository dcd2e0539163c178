"""Writes a codec as the three TFLite files of Lyra v2; needs package tflite."""

from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers  # pyright: ignore[reportMissingImports]: of an optional package
import numpy as np
import tflite  # pyright: ignore[reportMissingImports]: an optional package

from audiolm_jax.pretrained import lyra
from audiolm_jax.pretrained.lyra_layers import DILATIONS, SLOPE


class Quantized(NamedTuple):
  """Integers, their scales and the axis along which these differ."""

  values: np.ndarray
  scales: np.ndarray
  axis: int


class Node(NamedTuple):
  """An operation with its inputs; None is an input that is not stored in the file."""

  kind: str
  inputs: list[Any]
  options: dict[str, float] = {}


def write_tflite(path: Path, graphs: dict[str, list[Node]]) -> None:
  """Writes graphs whose operations have these inputs and no outputs."""
  schema: Any = tflite
  b = flatbuffers.Builder()
  kinds = sorted({node.kind for nodes in graphs.values() for node in nodes})
  buffers: list[bytes] = [b""]
  subgraphs = []
  for name, nodes in graphs.items():
    tensors, operators = [], []
    for node in nodes:
      indices = []
      for value in node.inputs:
        indices.append(len(tensors))
        tensors.append(_tensor(b, buffers, value))
      operators.append(_operator(b, node, kinds.index(node.kind), indices))
    tensors, operators, text = _offsets(b, tensors), _offsets(b, operators), b.CreateString(name)
    schema.SubGraphStart(b)
    schema.SubGraphAddTensors(b, tensors)
    schema.SubGraphAddOperators(b, operators)
    schema.SubGraphAddName(b, text)
    subgraphs.append(schema.SubGraphEnd(b))
  stored = []
  for content in buffers:
    data = b.CreateByteVector(content)
    schema.BufferStart(b)
    schema.BufferAddData(b, data)
    stored.append(schema.BufferEnd(b))
  codes = []
  for kind in kinds:
    schema.OperatorCodeStart(b)
    schema.OperatorCodeAddDeprecatedBuiltinCode(b, getattr(schema.BuiltinOperator, kind))
    codes.append(schema.OperatorCodeEnd(b))
  codes, subgraphs, stored = _offsets(b, codes), _offsets(b, subgraphs), _offsets(b, stored)
  schema.ModelStart(b)
  schema.ModelAddVersion(b, 3)
  schema.ModelAddOperatorCodes(b, codes)
  schema.ModelAddSubgraphs(b, subgraphs)
  schema.ModelAddBuffers(b, stored)
  b.Finish(schema.ModelEnd(b), b"TFL3")
  path.write_bytes(bytes(b.Output()))


def _offsets(b: Any, offsets: list[int]) -> int:
  b.StartVector(4, len(offsets), 4)
  for offset in reversed(offsets):
    b.PrependUOffsetTRelative(offset)
  return b.EndVector()


def _tensor(b: Any, buffers: list[bytes], value: Any) -> int:
  schema: Any = tflite
  parameters = None
  if isinstance(value, Quantized):
    scales = b.CreateNumpyVector(value.scales.astype(np.float32))
    zeros = b.CreateNumpyVector(np.zeros(len(value.scales), np.int64))
    schema.QuantizationParametersStart(b)
    schema.QuantizationParametersAddScale(b, scales)
    schema.QuantizationParametersAddZeroPoint(b, zeros)
    schema.QuantizationParametersAddQuantizedDimension(b, value.axis)
    parameters = schema.QuantizationParametersEnd(b)
    value = value.values
  array = np.zeros(1, np.float32) if value is None else value
  buffers.append(b"" if value is None else array.tobytes())
  shape = b.CreateNumpyVector(np.array(array.shape, np.int32))
  types = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32"}
  schema.TensorStart(b)
  schema.TensorAddShape(b, shape)
  schema.TensorAddType(b, getattr(schema.TensorType, types[array.dtype.name]))
  schema.TensorAddBuffer(b, len(buffers) - 1)
  if parameters is not None:
    schema.TensorAddQuantization(b, parameters)
  return schema.TensorEnd(b)


_OPTIONS = {
  "CONV_2D": "Conv2DOptions",
  "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
  "TRANSPOSE_CONV": "TransposeConvOptions",
  "LEAKY_RELU": "LeakyReluOptions",
}


def _operator(b: Any, node: Node, code: int, indices: list[int]) -> int:
  schema: Any = tflite
  inputs = b.CreateNumpyVector(np.array(indices, np.int32))
  options = None
  if node.kind in _OPTIONS:
    name = _OPTIONS[node.kind]
    getattr(schema, f"{name}Start")(b)
    for field, value in node.options.items():
      getattr(schema, f"{name}Add{field}")(b, value)
    options = getattr(schema, f"{name}End")(b)
  schema.OperatorStart(b)
  schema.OperatorAddOpcodeIndex(b, code)
  schema.OperatorAddInputs(b, inputs)
  if options is not None:
    schema.OperatorAddBuiltinOptionsType(b, getattr(schema.BuiltinOptions, _OPTIONS[node.kind]))
    schema.OperatorAddBuiltinOptions(b, options)
  return schema.OperatorEnd(b)


def write_lyra(folder: Path, codec: lyra.LyraCodec, slope: float = SLOPE) -> None:
  """Writes the files of a codec; the weights of the pointwise layers must be representable in int8.

  Args:
    folder: the folder to write to.
    codec: the codec.
    slope: of the leaky ReLU.
  """
  config, blocks = codec.config, len(codec.config.blocks)
  params = {half: codec.params[half] for half in ("encoder", "decoder")}
  activation = Node("LEAKY_RELU", [None], {"Alpha": slope})

  def convolution(layer, stride=1, quantized=False):
    kernel = np.asarray(layer["kernel"]).transpose(2, 0, 1)[:, :, None]
    bias = np.asarray(layer["bias"])
    if quantized:
      kernel, bias = _quantized(kernel), Quantized(np.zeros(len(bias), np.int32), np.ones(1), 0)
    return Node("CONV_2D", [None, kernel, bias], {"StrideH": stride, "DilationHFactor": 1})

  def units(half, block):
    nodes = []
    for j, dilation in enumerate(DILATIONS):
      unit = params[half][f"block_{block}_unit_{j}"]
      kernel = np.asarray(unit["dilated"]["kernel"])[None, :, None]
      zeros = np.zeros(kernel.shape[-1], np.float32)
      options = {"StrideH": 1, "DilationHFactor": dilation}
      nodes += [activation, Node("DEPTHWISE_CONV_2D", [None, kernel, zeros], options)]
      nodes += [convolution(unit["dense"], quantized=True), activation]
      nodes += [convolution(unit["grouped"]), Node("ADD", [None, None])]
    return nodes

  def transposed(layer, stride, groups):
    kernels = np.split(np.asarray(layer["kernel"]), groups, axis=-1)
    biases = np.split(np.asarray(layer["bias"]), groups)
    shape = np.array([1, 1, 1, 1], np.int32)
    return [
      Node(
        "TRANSPOSE_CONV", [shape, k.transpose(2, 1, 0)[:, :, None], None, v], {"StrideH": stride}
      )
      for k, v in zip(kernels, biases, strict=True)
    ]

  encoder = [convolution(params["encoder"]["input"], config.strides[0])]
  decoder = [convolution(params["decoder"]["input"]), activation]
  for i, (_, _, stride) in enumerate(config.blocks):
    encoder += [*units("encoder", i), activation]
    encoder.append(convolution(params["encoder"][f"block_{i}_down"], stride))
  encoder += [activation, convolution(params["encoder"]["output"])]
  for i in reversed(range(blocks)):
    _, groups, stride = config.blocks[i]
    decoder += transposed(params["decoder"][f"block_{i}_up"], stride, groups)
    decoder += [*units("decoder", i), activation]
  decoder += transposed(params["decoder"]["output"], config.strides[0], 1)
  tables = [
    Node("SQUARED_DIFFERENCE", [None, table[None]]) for table in np.asarray(codec.codebooks)
  ]
  graphs = ({"main": encoder}, {"encode": tables}, {"main": decoder})
  for name, graph in zip(lyra.FILES, graphs, strict=True):
    write_tflite(folder / name, graph)


def _quantized(kernel: np.ndarray) -> Quantized:
  """Returns the integers of a kernel whose channels have a largest value of 127 steps."""
  scales = np.abs(kernel).max(axis=(1, 2, 3)) / 127
  values = np.round(kernel / scales[:, None, None, None]).astype(np.int8)
  return Quantized(values, scales, 0)
