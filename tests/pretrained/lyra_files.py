"""Writes a codec as the three TFLite files of Lyra v2; needs package tflite."""

from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers  # pyright: ignore[reportMissingImports]: of an optional package
import numpy as np
import tflite  # pyright: ignore[reportMissingImports]: an optional package

from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.pretrained import lyra
from audiolm_jax.pretrained.lyra_layers import DILATIONS, SLOPE


class Quantized(NamedTuple):
  """Integers, their scales, the axis along which these differ, and the integer of 0."""

  values: np.ndarray
  scales: np.ndarray
  axis: int = 0
  zero: int = 0


class Node(NamedTuple):
  """An operation; its inputs are arrays, or the names of outputs; its output may be int8."""

  kind: str
  inputs: list[Any]
  options: dict[str, float]
  output: str
  is_int8: bool


class Graph:
  """Collects operations."""

  def __init__(self):
    self.nodes: list[Node] = []

  def add(self, kind: str, inputs: list[Any], is_int8: bool = False, **options: float) -> str:
    """Returns the name of the output."""
    self.nodes.append(Node(kind, inputs, options, f"output {len(self.nodes)}", is_int8))
    return self.nodes[-1].output


# Of all int8 outputs, and the least and largest value that they give.
_SCALE, _ZERO = 1 / 32, 10
LIMITS = (_SCALE * (-128 - _ZERO), _SCALE * (127 - _ZERO))


def write_tflite(path: Path, graphs: dict[str, list[Node]]) -> None:
  """Writes graphs."""
  schema: Any = tflite
  b = flatbuffers.Builder()
  kinds = sorted({node.kind for nodes in graphs.values() for node in nodes})
  buffers: list[bytes] = [b""]
  subgraphs = []
  for name, nodes in graphs.items():
    tensors, operators, places = [], [], {}
    for node in nodes:
      indices = []
      for value in node.inputs:
        if isinstance(value, str) and value in places:
          indices.append(places[value])
        else:
          indices.append(len(tensors))
          tensors.append(_tensor(b, buffers, value))
      places[node.output] = len(tensors)
      tensors.append(_tensor(b, buffers, node))
      operators.append(_operator(b, node, kinds.index(node.kind), indices, places[node.output]))
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
  parameters, stored = None, isinstance(value, np.ndarray | Quantized)
  if isinstance(value, Node) and value.is_int8:
    value = Quantized(np.zeros(1, np.int8), np.array([_SCALE]), zero=_ZERO)
  if isinstance(value, Quantized):
    scales = b.CreateNumpyVector(value.scales.astype(np.float32))
    zeros = b.CreateNumpyVector(np.full(len(value.scales), value.zero, np.int64))
    schema.QuantizationParametersStart(b)
    schema.QuantizationParametersAddScale(b, scales)
    schema.QuantizationParametersAddZeroPoint(b, zeros)
    schema.QuantizationParametersAddQuantizedDimension(b, value.axis)
    parameters = schema.QuantizationParametersEnd(b)
    value = value.values
  array = value if isinstance(value, np.ndarray) else np.zeros(1, np.float32)
  buffers.append(array.tobytes() if stored else b"")
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


def _operator(b: Any, node: Node, code: int, indices: list[int], output: int) -> int:
  schema: Any = tflite
  inputs = b.CreateNumpyVector(np.array(indices, np.int32))
  outputs = b.CreateNumpyVector(np.array([output], np.int32))
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
  schema.OperatorAddOutputs(b, outputs)
  if options is not None:
    schema.OperatorAddBuiltinOptionsType(b, getattr(schema.BuiltinOptions, _OPTIONS[node.kind]))
    schema.OperatorAddBuiltinOptions(b, options)
  return schema.OperatorEnd(b)


def write_lyra(folder: Path, codec: ResidualCodec) -> None:
  """Writes the files of a codec with the operations of the published ones that are read.

  The first layer of the encoder has no limits, that of the decoder has them after its activation,
  and all others are int8, with `LIMITS`. The weights of the dense layers are int8.
  """
  config: Any = codec.config
  encoder, decoder, quantizer = Graph(), Graph(), Graph()

  def convolution(graph, x, layer, stride=1, is_int8=True, dense=False):
    kernel = np.asarray(layer["kernel"]).transpose(2, 0, 1)[:, :, None]
    bias = np.asarray(layer["bias"])
    if dense:
      kernel, bias = _quantized(kernel), Quantized(np.zeros(len(bias), np.int32), np.ones(1))
    inputs = [x, kernel, bias]
    return graph.add("CONV_2D", inputs, is_int8, StrideH=stride, DilationHFactor=1)

  def activation(graph, x):
    return graph.add("LEAKY_RELU", [x], Alpha=SLOPE)

  def units(graph, x, params, block):
    for j, dilation in enumerate(DILATIONS):
      unit = params[f"block_{block}_unit_{j}"]
      kernel = np.asarray(unit["dilated"]["kernel"])[None, :, None]
      inputs = [activation(graph, x), kernel, np.zeros(kernel.shape[-1], np.float32)]
      h = graph.add("DEPTHWISE_CONV_2D", inputs, True, StrideH=1, DilationHFactor=dilation)
      h = activation(graph, convolution(graph, h, unit["dense"], dense=True))
      h = graph.add("DEQUANTIZE", [convolution(graph, h, unit["grouped"])])
      x = graph.add("QUANTIZE", [graph.add("ADD", [h, x])], is_int8=True)
    return x

  def transposed(graph, x, layer, stride, groups):
    kernels = np.split(np.asarray(layer["kernel"]), groups, axis=-1)
    biases = np.split(np.asarray(layer["bias"]), groups)
    for kernel, bias in zip(kernels, biases, strict=True):
      inputs = [np.ones(4, np.int32), kernel.transpose(2, 1, 0)[:, :, None], x, bias]
      x = graph.add("TRANSPOSE_CONV", inputs, True, StrideH=stride)
    return x

  params = codec.params["encoder"]
  x = convolution(encoder, "audio", params["input"], config.strides[0], is_int8=False)
  for i, (_, _, stride) in enumerate(config.blocks):
    x = activation(encoder, units(encoder, x, params, i))
    x = convolution(encoder, x, params[f"block_{i}_down"], stride)
  convolution(encoder, activation(encoder, x), params["output"])

  params = codec.params["decoder"]
  x = activation(decoder, convolution(decoder, "latents", params["input"], is_int8=False))
  x = decoder.add("QUANTIZE", [x], is_int8=True)
  for i, (_, groups, stride) in reversed(tuple(enumerate(config.blocks))):
    x = transposed(decoder, x, params[f"block_{i}_up"], stride, groups)
    x = units(decoder, x, params, i)
  transposed(decoder, x, params["output"], config.strides[0], 1)
  for table in np.asarray(codec.codebooks):
    quantizer.add("SQUARED_DIFFERENCE", ["residual", table[None]])
  graphs = ({"main": encoder.nodes}, {"encode": quantizer.nodes}, {"main": decoder.nodes})
  for name, graph in zip(lyra.FILES, graphs, strict=True):
    write_tflite(folder / name, graph)


def _quantized(kernel: np.ndarray) -> Quantized:
  """Returns the integers of a kernel whose channels have a largest value of 127 steps."""
  scales = np.abs(kernel).max(axis=(1, 2, 3)) / 127
  values = np.round(kernel / scales[:, None, None, None]).astype(np.int8)
  return Quantized(values, scales)
