"""Layers that do not depend on positions: the linear layer and the norm."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from audiolm_jax.core import modules, products
from audiolm_jax.core.arrays import Array


class Projection(nn.Module):
  """A linear layer without bias over the last axes of the input.

  Attributes:
    shape: shape of the kernel, input axes first.
    axes: logical names of the axes of the kernel.
    dtype: dtype of the operands and of the output; products are summed in float32.
    num_inputs: number of input axes.
    scale: the standard deviation of the initial kernel is `scale / sqrt(n)`, where n is the product
      of the sizes of the input axes.
  """

  shape: tuple[int, ...]
  axes: tuple[str, ...]
  dtype: DTypeLike
  num_inputs: int = 1
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    inputs = tuple(range(self.num_inputs))
    outputs = tuple(range(self.num_inputs, len(self.shape)))
    init = nn.initializers.variance_scaling(
      self.scale**2, "fan_in", "truncated_normal", in_axis=inputs, out_axis=outputs
    )
    kernel = modules.param(self, "kernel", init, self.axes, self.shape, jnp.float32)
    return _product(x.astype(self.dtype), kernel.astype(self.dtype), self.num_inputs)


class RMSNorm(nn.Module):
  """Divides by the root mean square over the last axis, and multiplies by a learned scale.

  The computation is in float32; the output has the type `dtype`.

  Source: arXiv 1910.07467.
  """

  dtype: DTypeLike
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
    ones = nn.initializers.ones
    scale = modules.param(self, "scale", ones, ("embed",), (x.shape[-1],), jnp.float32)
    x = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(variance + self.epsilon) * scale).astype(self.dtype)


# The time of a product of few rows and a large kernel, as in a decoding step, is the time to read
# the kernel from memory. XLA:CPU reads the kernel 1.1 to 1.7 times as fast in parts of
# `_PART_INPUTS` inputs. Parts do not make products with smaller kernels faster, because starting
# the other cores takes as much time as the parts save.
_FEW_ROWS = 8
_LARGE_KERNEL = 2**20
_PART_INPUTS = 128


def _product(x: Float[Array, "..."], kernel: Float[Array, "..."], num_inputs: int):
  inputs = math.prod(kernel.shape[:num_inputs])
  few_rows = x.size // inputs <= _FEW_ROWS
  contracted = (tuple(range(x.ndim - num_inputs, x.ndim)), tuple(range(num_inputs)))

  def whole(x, kernel):
    return products.dot_general(
      x, kernel, (contracted, ((), ())), preferred_element_type=jnp.float32
    )

  def in_parts(x, kernel):
    rows, outputs = x.shape[: x.ndim - num_inputs], kernel.shape[num_inputs:]
    x = x.reshape(-1, inputs // _PART_INPUTS, _PART_INPUTS)
    kernel = kernel.reshape(-1, _PART_INPUTS, math.prod(outputs))
    parts = jnp.einsum("rpi,piw->prw", x, kernel, preferred_element_type=jnp.float32)
    return jnp.sum(parts, axis=0).reshape(*rows, *outputs)

  if few_rows and kernel.size >= _LARGE_KERNEL and inputs % _PART_INPUTS == 0:
    product = jax.lax.platform_dependent(x, kernel, cpu=in_parts, default=whole)
  else:
    product = whole(x, kernel)
  return product.astype(x.dtype)
