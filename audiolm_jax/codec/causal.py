"""Causal convolutions that carry their past in an explicit state.

Every layer maps `(x, state)` to `(y, state)`. The state is the left context, so zeros at the start
are the causal padding, and a clip in pieces gives the same results as the whole clip. Strided
layers have kernel `2 * stride` and are written as matrix products over blocks of `stride` samples,
because the gradient of a strided or transposed convolution is slow on several XLA backends.

Strided layers are initialized as orthogonal maps and residual units as the identity. ELU is nearly
linear for small signals, so an untrained encoder or decoder is nearly a linear map that loses
little information. The paper specifies no initialization. With independent random kernels in every
layer, the same codec needs many times the steps before it codes a waveform rather than its
envelope.
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
  """Returns x above zero and exp(x) - 1 below.

  `jax.nn.elu`, which is exact to the last bit for small x, is slower.
  """
  return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


class Streamed:
  """Runs layers in sequence, each on its part of a state, and collects the new parts."""

  def __init__(self, state: Iterable[PyTree]):
    self._before = iter(state)
    self._after: list[PyTree] = []

  def __call__(self, layer: nn.Module, x: Array) -> Array:
    return self.run(layer, x, next(self._before))

  def run(self, layer: nn.Module, x: Array, before: PyTree) -> Array:
    """Runs a layer on the state `before`, which replaces its part of the state."""
    x, after = layer(x, before)
    self._after.append(after)
    return x

  @property
  def state(self) -> State:
    """The new states of the layers that ran."""
    return tuple(self._after)


class CausalConv(nn.Module):
  """Dilated convolution whose output at time t depends on inputs up to t.

  State: the last `(kernel_size - 1) * dilation` inputs. A kernel of size 1 needs none, and returns
  any state unchanged.

  Attributes:
    features: channels of the output.
    kernel_size: number of inputs per output.
    dilation: distance between those inputs in samples.
    kernel_init: initializer of the kernel.
  """

  features: int
  kernel_size: int
  dilation: int = 1
  kernel_init: nn.initializers.Initializer = _fan_in

  def context(self) -> int:
    """Returns the left context in samples."""
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
  """Down-sampling by `stride`: each output depends on a block of inputs and the block before.

  State: the last block, `stride` inputs. The number of inputs must be a multiple of `stride`.
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

  Each input contributes to its own block of outputs and to the next block. State: the contribution
  of the last input to the next block.
  """

  features: int
  stride: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames channels"], state: Float[Array, "batch stride features"]
  ) -> tuple[Float[Array, "batch time features"], Float[Array, "batch stride features"]]:
    batch, frames, channels = x.shape
    gain = (self.stride * self.features / channels) ** 0.5  # equal power of inputs and outputs
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
  """ELU, dilated convolution of kernel 7, ELU, pointwise convolution, added to the input.

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
