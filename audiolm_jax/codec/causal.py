"""Causal convolutions with an explicit state.

Every layer maps `(x, state)` to `(y, state)`. The state represents the earlier inputs that the next
outputs depend on. A state of zeros at the start of a clip has the effect of causal padding. A clip
can be processed in pieces; the results do not depend on the pieces. Strided layers have kernels
of size `2 * stride`. They are computed as matrix products over blocks of `stride` samples, because
the gradients of strided and transposed convolutions are slow on several XLA backends.

Strided layers are initialized as orthogonal maps and residual units as the identity. ELU is nearly
linear for small signals, so an untrained encoder or decoder is nearly a linear map that loses
little information. The paper specifies no initialization. With independent random kernels in every
layer, the codec needs many times as many training steps until it encodes the waveform instead of
only its envelope.
"""

from collections.abc import Iterable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, PyTree

from audiolm_jax.codec.convolution import convolve
from audiolm_jax.core import modules, products
from audiolm_jax.core.arrays import Array

# The parts of a state, one for each layer.
State = tuple[PyTree, ...]

_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def elu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Returns `x` for positive `x`, else exp(x) - 1.

  This function is faster than `jax.nn.elu`, but less precise for negative `x` near zero.
  """
  return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


class Streamed:
  """Runs layers in sequence, each with its part of an initial state; collects the new states."""

  def __init__(self, state: Iterable[PyTree]):
    self._before = iter(state)
    self._after: list[PyTree] = []

  def __call__(self, layer: nn.Module, x: Array) -> Array:
    return self.run(layer, x, next(self._before))

  def run(self, layer: nn.Module, x: Array, before: PyTree) -> Array:
    """Runs a layer with the state `before` instead of the next part of the initial state."""
    x, after = layer(x, before)
    self._after.append(after)
    return x

  @property
  def state(self) -> State:
    """The new states of the layers that were run, in order."""
    return tuple(self._after)


class CausalConv(nn.Module):
  """Dilated convolution whose output at time t depends on inputs up to t.

  State: the last `(kernel_size - 1) * dilation` inputs. A layer with a kernel of size 1 needs no
  state and returns its state argument unchanged.

  Attributes:
    features: channels of the output.
    kernel_size: number of inputs per output.
    dilation: distance between these inputs in time steps.
    kernel_init: initializer of the kernel.
  """

  features: int
  kernel_size: int
  dilation: int = 1
  kernel_init: nn.initializers.Initializer = _fan_in

  def context(self) -> int:
    """Returns the left context in time steps."""
    return (self.kernel_size - 1) * self.dilation

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time channels"], state: Float[Array, "batch context _"]
  ) -> tuple[Float[Array, "batch time features"], Float[Array, "batch context _"]]:
    kernel = modules.param(
      self,
      "kernel",
      self.kernel_init,
      ("kernel", "conv_in", "channels"),
      (self.kernel_size, x.shape[-1], self.features),
    )
    bias = modules.param(self, "bias", nn.initializers.zeros, ("channels",), (self.features,))
    if self.kernel_size == 1:
      return products.matmul(x, kernel[0]) + bias, state
    padded = jnp.concatenate([state, x], axis=1)
    y = convolve(padded, kernel, dilations=self.dilation)
    return y + bias, padded[:, padded.shape[1] - self.context() :]


class StridedConv(nn.Module):
  """Convolution that down-samples by `stride`.

  Each output depends on a block of `stride` inputs and on the previous block. The number of inputs
  must be a multiple of `stride`. State: the last block of inputs.
  """

  features: int
  stride: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time channels"], state: Float[Array, "batch stride channels"]
  ) -> tuple[Float[Array, "batch frames features"], Float[Array, "batch stride channels"]]:
    batch, _, channels = x.shape
    kernel = modules.param(
      self,
      "kernel",
      nn.initializers.orthogonal(),
      ("conv_in", "channels"),
      (2 * self.stride * channels, self.features),
    )
    bias = modules.param(self, "bias", nn.initializers.zeros, ("channels",), (self.features,))
    padded = jnp.concatenate([state, x], axis=1)
    blocks = padded.reshape(batch, -1, self.stride * channels)
    pairs = jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1)
    return products.matmul(pairs, kernel) + bias, padded[:, padded.shape[1] - self.stride :]


class TransposedConv(nn.Module):
  """Transposed convolution that up-samples by `stride`.

  Each input contributes to a block of `stride` outputs and to the next block. State: the
  contribution of the last input to the next block.
  """

  features: int
  stride: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames channels"], state: Float[Array, "batch stride features"]
  ) -> tuple[Float[Array, "batch time features"], Float[Array, "batch stride features"]]:
    batch, frames, channels = x.shape
    gain = (self.stride * self.features / channels) ** 0.5  # outputs have the power of the inputs
    kernel = modules.param(
      self,
      "kernel",
      nn.initializers.orthogonal(gain),
      ("conv_in", "channels"),
      (channels, 2 * self.stride * self.features),
    )
    bias = modules.param(self, "bias", nn.initializers.zeros, ("channels",), (self.features,))
    written = products.matmul(x, kernel)
    written = written.reshape(batch, frames, 2, self.stride, self.features)
    own, following = written[:, :, 0], written[:, :, 1]
    carried = jnp.concatenate([state[:, None], following[:, :-1]], axis=1)
    y = (own + carried).reshape(batch, frames * self.stride, self.features) + bias
    return y, following[:, -1]


class ResidualUnit(nn.Module):
  """ELU, dilated convolution, ELU, pointwise convolution, residual connection.

  State: the state of the dilated convolution.

  Source: SoundStream, section III-A.
  """

  dilation: int
  kernel_size: int = 7

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time channels"], state: Float[Array, "batch context channels"]
  ) -> tuple[Float[Array, "batch time channels"], Float[Array, "batch context channels"]]:
    channels = x.shape[-1]
    h, state = CausalConv(channels, self.kernel_size, self.dilation, name="dilated")(elu(x), state)
    pointwise = CausalConv(channels, 1, kernel_init=nn.initializers.zeros, name="pointwise")
    h, _ = pointwise(elu(h), state)
    return x + h, state
