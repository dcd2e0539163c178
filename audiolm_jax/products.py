"""Matrix products of the models, whose precision in training is a setting.

Intel CPUs with AMX multiply bfloat16 operands into float32 results about four times as fast as
float32 operands. `precision` selects this for everything that is traced within it; a training
step is traced so, and encoding, sampling and evaluation are not, so tokens do not depend on the
machine.
"""

import contextlib
import contextvars
import enum
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Precision(enum.StrEnum):
  """What `matmul` rounds its operands to; its result is float32 in both cases."""

  FLOAT32 = "float32"
  BFLOAT16 = "bfloat16"


_PRECISION = contextvars.ContextVar("precision", default=Precision.FLOAT32)

# A transpose by a product with the identity matrix costs inputs**2 operations a row, and is the
# faster one up to about this width.
_IDENTITY_WIDTH = 512
_TRANSPOSE_BLOCK = 16


@contextlib.contextmanager
def precision(value: Precision | str) -> Iterator[None]:
  """Selects the precision of the products that are traced in this context.

  A function that `jax.jit` traced in one context keeps its program in another one: trace what
  depends on the precision within it, and only there.
  """
  token = _PRECISION.set(Precision(value))
  try:
    yield
  finally:
    _PRECISION.reset(token)


def current_precision() -> Precision:
  """The precision of products traced now."""
  return _PRECISION.get()


def fastest_precision() -> Precision:
  """BFLOAT16 where training runs on a CPU that has AMX, FLOAT32 elsewhere."""
  on_amx = jax.default_backend() == "cpu" and cpu_has_amx()
  return Precision.BFLOAT16 if on_amx else Precision.FLOAT32


@functools.cache
def cpu_has_amx() -> bool:
  """Whether the processor multiplies bfloat16 matrices in tiles (Linux says so)."""
  if sys.platform != "linux":
    return False
  try:
    return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
  except OSError:
    return False


def matmul(
  x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
  """The product over the last axis of `x` and the first of `kernel`, in the current precision.

  Returns:
    float32; under BFLOAT16 the gradients are float32 too, made of bfloat16 operands.
  """
  if current_precision() is Precision.BFLOAT16:
    return _rounded_matmul(x, kernel)
  return _dot(x, kernel, x.ndim - 1, 0)


def _dot(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
  axes = (((a_axis,), (b_axis,)), ((), ()))
  return lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _rounded_matmul(x: Array, kernel: Array) -> Array:
  return _rounded_forward(x, kernel)[0]


def _rounded_forward(x: Array, kernel: Array):
  rounded = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  # Empty arrays that remember the operands' types.
  types = jnp.zeros(0, x.dtype), jnp.zeros(0, kernel.dtype)
  return _dot(*rounded, x.ndim - 1, 0), (*rounded, *types)


def _rounded_backward(residuals, gradient: Array):
  x, kernel, x_type, kernel_type = residuals
  gradient = gradient.astype(jnp.bfloat16)
  x_gradient = _dot(gradient, kernel, gradient.ndim - 1, 1)
  rows = x.reshape(-1, x.shape[-1])
  columns = gradient.reshape(-1, gradient.shape[-1])
  # The fast path needs rows of one operand against columns of the other. XLA folds a plain
  # transpose into the product, which then misses it.
  if rows.shape[1] <= columns.shape[1]:
    kernel_gradient = _dot(_transposed(rows), columns, 1, 0)
  else:
    # The barrier keeps this transpose out of the product, which XLA:CPU could not run then.
    kernel_gradient = lax.optimization_barrier(_dot(_transposed(columns), rows, 1, 0)).T
  return x_gradient.astype(x_type.dtype), kernel_gradient.astype(kernel_type.dtype)


_rounded_matmul.defvjp(_rounded_forward, _rounded_backward)


def _transposed(x: Float[Array, "rows columns"]) -> Float[Array, "columns rows"]:
  """The transpose, made in a way that XLA does not fold into a product."""
  rows, columns = x.shape
  if columns <= _IDENTITY_WIDTH:
    # Exact: each result is one element times one.
    return _dot(jnp.eye(columns, dtype=x.dtype), x, 1, 1).astype(x.dtype)
  padded = jnp.pad(x, ((0, -rows % _TRANSPOSE_BLOCK), (0, 0)))
  blocks = padded.reshape(-1, _TRANSPOSE_BLOCK, columns).transpose(0, 2, 1)
  blocks = lax.optimization_barrier(blocks).transpose(1, 0, 2)
  return lax.optimization_barrier(blocks.reshape(columns, -1)[:, :rows])
