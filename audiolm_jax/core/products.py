"""Matrix products of the models, with a precision that can be selected for training.

Intel CPUs with AMX multiply bfloat16 operands into float32 results about four times as fast as
float32 operands. The context manager `precision` selects the precision of all products of this
module that are traced within it. Only training steps use this context manager. Encoding, sampling
and evaluation do not use it, so their results do not depend on AMX.
"""

# JAX and jax.numpy leave out the types of some parameters, such as `device` and `operand`.
# pyright: reportUnknownMemberType=false

import contextlib
import enum
import functools
import math
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from audiolm_jax.core.arrays import Array


class Precision(enum.StrEnum):
  """The type to which products round float32 operands; results are float32 in both cases."""

  FLOAT32 = "float32"
  BFLOAT16 = "bfloat16"


# A user context is part of the key of JAX's caches, so functions are traced once per precision.
_PRECISION = jax.make_user_context(default_value=Precision.FLOAT32)

# A transpose by a product with the identity matrix costs inputs**2 operations per row. This
# transpose is the faster one up to about this width.
_IDENTITY_WIDTH = 512
_TRANSPOSE_BLOCK = 16


@contextlib.contextmanager
def precision(value: Precision | str) -> Generator[None]:
  """Selects the precision of the products that this thread traces within the context."""
  with _PRECISION(Precision(value)):
    yield


def current_precision() -> Precision:
  """Returns the precision of the products that this thread traces now."""
  return Precision(_PRECISION.value)


def fastest_precision() -> Precision:
  """Returns BFLOAT16 if JAX computes on a CPU with AMX, else FLOAT32."""
  on_amx = jax.default_backend() == "cpu" and cpu_has_amx()
  return Precision.BFLOAT16 if on_amx else Precision.FLOAT32


@functools.cache
def cpu_has_amx() -> bool:
  """Returns whether Linux reports that the processor has AMX instructions for bfloat16.

  Returns False if the environment variable AUDIOLM_JAX_AMX is "off".
  """
  if sys.platform != "linux" or os.environ.get("AUDIOLM_JAX_AMX", "").lower() == "off":
    return False
  try:
    return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
  except OSError:
    return False


def matmul(
  x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
  """Returns the product of `x` and `kernel` in the current precision.

  Returns:
    An array of the operands' type. If operands are rounded (see `rounds`), the gradients are also
    float32 products of bfloat16 operands.
  """
  return cast(Array, _rounded_matmul(x, kernel)) if rounds(x, kernel) else x @ kernel


def dot_general(
  x: Array,
  kernel: Array,
  dimension_numbers: lax.DotDimensionNumbers,
  precision: lax.PrecisionLike = None,
  preferred_element_type: DTypeLike | None = None,
) -> Array:
  """Contracts the last axes of `x` with the first axes of `kernel` in the current precision.

  Args:
    x: the input.
    kernel: the weights.
    dimension_numbers: see `lax.dot_general`.
    precision: see `lax.dot_general`; ignored if operands are rounded.
    preferred_element_type: see `lax.dot_general`; ignored if operands are rounded.

  Raises:
    ValueError: operands are rounded and `dimension_numbers` select other axes.
  """
  if not rounds(x, kernel):
    return lax.dot_general(x, kernel, dimension_numbers, precision, preferred_element_type)
  (contracted, first), batch = dimension_numbers
  count = len(first)
  if (
    tuple(contracted) != tuple(range(x.ndim - count, x.ndim))
    or tuple(first) != tuple(range(count))
    or any(map(len, batch))
  ):
    raise ValueError(f"dot_general in bfloat16 cannot contract {dimension_numbers}")
  inputs = math.prod(kernel.shape[:count])
  rows, outputs = x.shape[: x.ndim - count], kernel.shape[count:]
  product = cast(Array, _rounded_matmul(x.reshape(*rows, inputs), kernel.reshape(inputs, -1)))
  return product.reshape(*rows, *outputs)


def batched_matmul(
  x: Float[Array, "*batch rows inputs"], y: Float[Array, "*batch inputs columns"]
) -> Float[Array, "*batch rows columns"]:
  """Returns the products of stacked matrices in the current precision.

  Unlike the kernel of `matmul`, the second operand has batch axes. Gradients are rounded as
  in `matmul`.
  """
  return cast(Array, _rounded_batched(x, y)) if rounds(x, y) else x @ y


def rounds(x: Array, kernel: Array) -> bool:
  """Returns whether a product that is traced now rounds its operands `x` and `kernel` to bfloat16.

  Only float32 operands are rounded.
  """
  both_float32 = x.dtype == kernel.dtype == jnp.float32
  return both_float32 and current_precision() is Precision.BFLOAT16


def _dot(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
  axes = (((a_axis,), (b_axis,)), ((), ()))
  return lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _rounded_operands(x: Array, y: Array) -> tuple[Array, Array]:
  # XLA:CPU cannot run a bfloat16 product into which it has folded a transpose of an operand or of
  # the result; the barriers here and below prevent the folding.
  return lax.optimization_barrier((x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)))


@jax.custom_vjp
def _rounded_matmul(x: Array, kernel: Array) -> Array:
  return _rounded_forward(x, kernel)[0]


def _rounded_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  rounded = _rounded_operands(x, kernel)
  return lax.optimization_barrier(_dot(*rounded, x.ndim - 1, 0)), rounded


def _rounded_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = residuals
  gradient = lax.optimization_barrier(gradient.astype(jnp.bfloat16))
  x_gradient = lax.optimization_barrier(_dot(gradient, kernel, gradient.ndim - 1, 1))
  rows = x.reshape(-1, x.shape[-1])
  columns = gradient.reshape(-1, gradient.shape[-1])
  # XLA's fast path multiplies rows of the first operand by columns of the second operand. XLA would
  # fold a plain transpose into the product, and the product would not use the fast path.
  if rows.shape[1] <= columns.shape[1]:
    kernel_gradient = lax.optimization_barrier(_dot(_transposed(rows), columns, 1, 0))
  else:
    kernel_gradient = lax.optimization_barrier(_dot(_transposed(columns), rows, 1, 0)).T
  return x_gradient, kernel_gradient


_rounded_matmul.defvjp(_rounded_forward, _rounded_backward)


def _stacked_dot(x: Array, y: Array) -> Array:
  axes, batch = ((x.ndim - 1,), (y.ndim - 2,)), tuple(range(x.ndim - 2))
  product = lax.dot_general(x, y, (axes, (batch, batch)), preferred_element_type=jnp.float32)
  return lax.optimization_barrier(product)


@jax.custom_vjp
def _rounded_batched(x: Array, y: Array) -> Array:
  return _rounded_batched_forward(x, y)[0]


def _rounded_batched_forward(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
  rounded = _rounded_operands(x, y)
  return _stacked_dot(*rounded), rounded


def _rounded_batched_backward(
  residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
  def transposed(matrices: Array) -> Array:
    return lax.optimization_barrier(matrices.swapaxes(-1, -2))

  x, y = residuals
  gradient = lax.optimization_barrier(gradient.astype(jnp.bfloat16))
  x_gradient = _stacked_dot(gradient, transposed(y))
  # The smaller of the two operands is transposed.
  if x.size <= gradient.size:
    y_gradient = _stacked_dot(transposed(x), gradient)
  else:
    y_gradient = _stacked_dot(transposed(gradient), x).swapaxes(-1, -2)
  return x_gradient, y_gradient


_rounded_batched.defvjp(_rounded_batched_forward, _rounded_batched_backward)


def _transposed(x: Float[Array, "rows columns"]) -> Float[Array, "columns rows"]:
  """Returns the transpose, computed in a way that XLA cannot fold into a product."""
  rows, columns = x.shape
  if columns <= _IDENTITY_WIDTH:
    # Exact, because each result is one element times 1 plus zeros.
    return _dot(jnp.eye(columns, dtype=x.dtype), x, 1, 1).astype(x.dtype)
  padded = jnp.pad(x, ((0, -rows % _TRANSPOSE_BLOCK), (0, 0)))
  blocks = padded.reshape(-1, _TRANSPOSE_BLOCK, columns).transpose(0, 2, 1)
  blocks = lax.optimization_barrier(blocks).transpose(1, 0, 2)
  return lax.optimization_barrier(blocks.reshape(columns, -1)[:, :rows])
