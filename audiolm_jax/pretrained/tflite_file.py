"""Reads the weights of convolutions and quantizers from TFLite files, without TensorFlow.

The package tflite, an optional extra, contains the schema of the format.
"""

import importlib
import struct
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from audiolm_jax.core.errors import DataError, UserError


class Operation(NamedTuple):
  """An operation of a graph.

  Attributes:
    kind: name of the operation in the schema, such as "CONV_2D".
    constants: values of the inputs that are stored in the file; None for other inputs. Quantized
      values, which have scales, are converted to float32.
    options: the settings that `_OPTIONS` lists, by name.
    inputs: indices of the inputs among the tensors of the graph.
    output: index of the first output among the tensors of the graph; -1 if there is no output.
    limits: the smallest and the largest value of the first output in int8; None if the output is
      not quantized.
  """

  kind: str
  constants: list[np.ndarray | None]
  options: dict[str, float]
  inputs: list[int]
  output: int
  limits: tuple[float, float] | None

  def constant(self, index: int) -> np.ndarray:
    """Returns the value of an input that is stored in the file.

    Raises:
      IndexError: the input does not exist or is not stored in the file.
    """
    value = self.constants[index]
    if value is None:
      raise IndexError(f"input {index} of {self.kind} is not stored")
    return value


# Classes of the options of operations, and which of their fields are read.
_OPTIONS = {
  "CONV_2D": ("Conv2DOptions", ("Padding", "StrideH", "DilationHFactor")),
  "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", ("Padding", "StrideH", "DilationHFactor")),
  "TRANSPOSE_CONV": ("TransposeConvOptions", ("Padding", "StrideH")),
  "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
}
_TYPES = {
  "FLOAT32": np.dtype("<f4"),
  "INT32": np.dtype("<i4"),
  "INT8": np.dtype("i1"),
}


def read_operations(name: str, content: bytes) -> dict[str, list[Operation]]:
  """Returns, by the name of each graph of a file, its operations in the order of execution.

  Args:
    name: name of the file in error messages.
    content: bytes of the file.

  Raises:
    UserError: package tflite is not installed.
    DataError: the file is not a TFLite file, or is damaged.
  """
  try:
    schema = importlib.import_module("tflite")
  except ImportError as error:
    raise UserError(
      f"package {error.name}, which reads {name}, is not installed: "
      "pip install -r requirements/extras/lyra.txt"
    ) from None
  try:
    if not schema.Model.ModelBufferHasIdentifier(content, 0):
      raise ValueError("another format")
    model = schema.Model.GetRootAs(content, 0)
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return {graph.Name().decode(): _operations(schema, model, graph) for graph in graphs}
  except (struct.error, ValueError, TypeError, AttributeError, LookupError) as error:
    raise DataError(f"{name} is not a TFLite file or is damaged; download it again") from error


def _operations(schema: ModuleType, model: Any, graph: Any) -> list[Operation]:
  kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items() if kind.isupper()}
  found = []
  for i in range(graph.OperatorsLength()):
    operator = graph.Operators(i)
    code = model.OperatorCodes(operator.OpcodeIndex())
    kind = kinds[code.BuiltinCode()]
    inputs = [operator.Inputs(j) for j in range(operator.InputsLength())]
    constants = [_constant(schema, model, graph.Tensors(j)) if j >= 0 else None for j in inputs]
    output = operator.Outputs(0) if operator.OutputsLength() else -1
    limits = _limits(graph.Tensors(output)) if output >= 0 else None
    options = _options(schema, kind, operator)
    found.append(Operation(kind, constants, options, inputs, output, limits))
  return found


def _limits(tensor: Any) -> tuple[float, float] | None:
  quantization = tensor.Quantization()
  if quantization is None or not quantization.ScaleLength():
    return None
  scale, zero, of_int8 = quantization.Scale(0), quantization.ZeroPoint(0), np.iinfo(np.int8)
  return scale * (of_int8.min - zero), scale * (of_int8.max - zero)


def _options(schema: ModuleType, kind: str, operator: Any) -> dict[str, float]:
  if kind not in _OPTIONS:
    return {}
  class_name, fields = _OPTIONS[kind]
  table, options = operator.BuiltinOptions(), getattr(schema, class_name)()
  options.Init(table.Bytes, table.Pos)
  return {field: getattr(options, field)() for field in fields}


def _constant(schema: ModuleType, model: Any, tensor: Any) -> np.ndarray | None:
  """Returns the value of a tensor, float32 if it is quantized; None if it cannot be read.

  A value can be read if it is stored in the file and has one of `_TYPES`.
  """
  buffer = model.Buffers(tensor.Buffer())
  kinds = {code: kind for kind, code in vars(schema.TensorType).items() if kind.isupper()}
  kind = kinds[tensor.Type()]
  if not buffer.DataLength() or kind not in _TYPES:
    return None
  shape = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
  stored = buffer.DataAsNumpy().tobytes()
  value = np.frombuffer(stored, _TYPES[kind]).reshape(shape)
  quantization = tensor.Quantization()
  if quantization is None or not quantization.ScaleLength():
    return value
  along = [1] * len(shape)
  if quantization.ScaleLength() > 1:
    along[quantization.QuantizedDimension()] = -1
  scale = quantization.ScaleAsNumpy().reshape(along)
  zero = quantization.ZeroPointAsNumpy().reshape(along)
  return ((value.astype(np.float64) - zero) * scale).astype(np.float32)
