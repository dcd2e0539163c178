"""The networks of Lyra v2, a small causal SoundStream for speech with grouped convolutions.

Every layer is padded with zeros before the start of a clip, and no output depends on later inputs.
The published files compute some layers in int8. Here the outputs of these layers are limited to the
range of the int8 values, which loud clips would exceed.

Source: Zeghidour, Luebs, Omran, Skoglund and Tagliasacchi, "SoundStream: An End-to-End Neural Audio
Codec", 2021 (arXiv 2107.03312); sizes and groups are those of the published files.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from audiolm_jax.chunking import Sizes
from audiolm_jax.codec.causal import State, Streamed
from audiolm_jax.codec.residual_codec import ResidualConfig
from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.ranges import Depth, SampleRate, Taps, Vocabulary, Width

DILATIONS = (1, 3, 9)
SLOPE = 0.3  # slope of the leaky ReLU below zero
# The limits of an output that the published files do not compute in int8.
NO_LIMITS = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
_UNIT_KERNEL = 3
_LATENT_KERNEL = 3
# Kernel size divided by the stride: of the strided layer next to the waveform, and of the others.
_OUTER_OVERLAP = 4
_OVERLAP = 2

_init = nn.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class LyraConfig(ResidualConfig):
  """Shape of a Lyra; the defaults are those of Lyra v2 (50 Hz, 9.2 kbit/s).

  Attributes:
    sample_rate: Hz.
    channels: channels after the first stride; each further stride doubles them. A block with
      `n * channels` channels has `n` groups.
    strides: down-sampling factors of the encoder; the layer next to the waveform has the first
      factor. The product of the factors is the hop length.
    latent_dim: dimension of the latents that are quantized.
    num_quantizers: residual levels.
    codebook_size: entries per level.
    search_width: see `ResidualConfig`.
  """

  sample_rate: SampleRate = 16_000
  channels: Width = 64
  strides: tuple[Taps, ...] = (16, 5, 2, 2)
  latent_dim: Width = 64
  num_quantizers: Depth = 46
  codebook_size: Vocabulary = 16
  search_width: Depth = 1
  # 10 s at the published rate.
  chunk_sizes: ClassVar[Sizes] = Sizes.in_steps(500, 50)

  @property
  def hop_length(self) -> int:
    """Samples per frame."""
    return math.prod(self.strides)

  @property
  def blocks(self) -> tuple[tuple[int, int, int], ...]:
    """Channels, groups and stride of each block of the encoder; a stride doubles the channels."""
    return tuple((self.channels * 2**i, 2**i, stride) for i, stride in enumerate(self.strides[1:]))

  @property
  def inner(self) -> tuple[int, int]:
    """Channels and groups of the layers next to the latents."""
    return self.channels * 2 ** len(self.blocks), max(1, 2 ** (len(self.blocks) - 1))

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""
    latent, outer, first = self.latent_dim, self.channels, _OUTER_OVERLAP * self.strides[0]
    inner, groups = self.inner
    encoder = {
      "input": _limited_convolution(first, 1, outer),
      "output": _limited_convolution(_LATENT_KERNEL, inner // groups, latent),
    }
    decoder = {
      "input": _limited_convolution(_LATENT_KERNEL, latent // groups, inner),
      "output": {"kernel": (outer, first, 1), "bias": (1,)},
    }
    for i, (channels, groups, stride) in enumerate(self.blocks):
      unit = {
        "dilated": {"kernel": (_UNIT_KERNEL, channels), "limits": (2,)},
        "dense": _limited_convolution(1, channels, channels),
        "grouped": _limited_convolution(1, channels // groups, channels),
        "limits": (2,),
      }
      units = {f"block_{i}_unit_{j}": unit for j in range(len(DILATIONS))}
      taps, doubled = _OVERLAP * stride, 2 * channels
      down = _limited_convolution(taps, channels // groups, doubled)
      up = {"kernel": (doubled // groups, taps, channels), "bias": (channels,)}
      encoder |= units | {f"block_{i}_down": down}
      decoder |= units | {f"block_{i}_up": up}
    codebooks = (self.num_quantizers, self.codebook_size, latent)
    return {"encoder": encoder, "decoder": decoder, "codebooks": codebooks}

  @property
  def encoder(self) -> "LyraEncoder":
    return LyraEncoder(self)

  @property
  def decoder(self) -> "LyraDecoder":
    return LyraDecoder(self)

  def encoder_state(self, batch: int) -> State:
    shapes = [((_OUTER_OVERLAP - 1) * self.strides[0], 1)]
    for channels, _, stride in self.blocks:
      shapes += [*_unit_contexts(channels), ((_OVERLAP - 1) * stride, channels)]
    shapes += [(_LATENT_KERNEL - 1, self.inner[0])]
    return tuple(jnp.zeros((batch, *shape)) for shape in shapes)

  def decoder_state(self, batch: int) -> State:
    shapes = [(_LATENT_KERNEL - 1, self.latent_dim)]
    for channels, _, stride in reversed(self.blocks):
      shapes += [(_OVERLAP - 1, stride, channels), *_unit_contexts(channels)]
    shapes += [(_OUTER_OVERLAP - 1, self.strides[0], 1)]
    return tuple(jnp.zeros((batch, *shape)) for shape in shapes)


def _unit_contexts(channels: int) -> list[tuple[int, ...]]:
  return [((_UNIT_KERNEL - 1) * dilation, channels) for dilation in DILATIONS]


def _limited_convolution(taps: int, inputs: int, outputs: int) -> shapes.Shapes:
  return shapes.convolution(taps, inputs, outputs) | {"limits": (2,)}


class LyraEncoder(nn.Module):
  """Maps waveform to latents."""

  config: LyraConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch frames latent"], State]:
    del ends  # no frame depends on later samples
    c = self.config
    run = Streamed(state)
    first = GroupedConv(c.channels, _OUTER_OVERLAP * c.strides[0], c.strides[0], name="input")
    x = run(first, waveform[..., None])
    for i, (channels, groups, stride) in enumerate(c.blocks):
      for j, dilation in enumerate(DILATIONS):
        x = run(LyraResidualUnit(dilation, groups, name=f"block_{i}_unit_{j}"), x)
      down = GroupedConv(2 * channels, _OVERLAP * stride, stride, groups, name=f"block_{i}_down")
      x = run(down, _activated(x))
    output = GroupedConv(c.latent_dim, _LATENT_KERNEL, groups=c.inner[1], name="output")
    return run(output, _activated(x)), run.state


class LyraDecoder(nn.Module):
  """Maps latents to waveform with the layers of the encoder in reverse."""

  config: LyraConfig

  @nn.compact
  def __call__(
    self, latents: Float[Array, "batch frames latent"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch samples"], State]:
    del ends  # no sample depends on later latents
    c = self.config
    run = Streamed(state)
    inner, inner_groups = c.inner
    x = run(GroupedConv(inner, _LATENT_KERNEL, groups=inner_groups, name="input"), latents)
    for i, (channels, groups, stride) in reversed(tuple(enumerate(c.blocks))):
      up = GroupedTransposedConv(channels, stride, _OVERLAP, groups, name=f"block_{i}_up")
      x = run(up, _activated(x))
      for j, dilation in enumerate(DILATIONS):
        x = run(LyraResidualUnit(dilation, groups, name=f"block_{i}_unit_{j}"), x)
    output = GroupedTransposedConv(1, c.strides[0], _OUTER_OVERLAP, name="output")
    return run(output, _activated(x))[..., 0], run.state


def _activated(x: jax.Array) -> jax.Array:
  return nn.leaky_relu(x, SLOPE)


def _limited(module: nn.Module, x: jax.Array) -> jax.Array:
  limits = module.param("limits", lambda _, shape: jnp.array(NO_LIMITS).reshape(shape), (2,))
  return jnp.clip(x, limits[0], limits[1])


class GroupedConv(nn.Module):
  """Causal convolution in which each group of outputs depends on one group of inputs.

  It is computed as a matrix product over the inputs under the kernel. The number of inputs must be
  a multiple of `stride`. The output is limited to the range in the parameter `limits`.

  State: the last `kernel_size - stride` inputs.

  Attributes:
    features: channels of the output.
    kernel_size: number of inputs that an output depends on, a multiple of `stride`.
    stride: number of inputs from one output to the next.
    groups: number of groups of channels.
  """

  features: int
  kernel_size: int
  stride: int = 1
  groups: int = 1

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time channels"], state: Float[Array, "batch context channels"]
  ) -> tuple[Float[Array, "batch frames features"], Float[Array, "batch context channels"]]:
    batch, time, channels = x.shape
    frames, taps, each = time // self.stride, self.kernel_size, channels // self.groups
    kernel = self.param("kernel", _init, (taps, each, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    padded = jnp.concatenate([state, x], axis=1)
    blocks = padded.reshape(batch, -1, self.stride, channels)
    shifted = [blocks[:, i : i + frames] for i in range(taps // self.stride)]
    under_kernel = jnp.concatenate(shifted, axis=2).reshape(batch, frames, taps, self.groups, each)
    y = jnp.einsum(
      "bftgi,tigo->bfgo", under_kernel, kernel.reshape(taps, each, self.groups, -1)
    ).reshape(batch, frames, self.features)
    return _limited(self, y + bias), padded[:, time:]


class GroupedTransposedConv(nn.Module):
  """Transposed convolution that up-samples by `stride`.

  Each input contributes to its own output block and the next `overlap - 1` blocks. State: the sums
  of the previous contributions to the next `overlap - 1` blocks.

  Attributes:
    features: channels of the output.
    stride: number of outputs per input.
    overlap: kernel size divided by `stride`.
    groups: number of groups of channels.
  """

  features: int
  stride: int
  overlap: int
  groups: int = 1

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch frames channels"],
    state: Float[Array, "batch following stride features"],
  ) -> tuple[Float[Array, "batch time features"], Float[Array, "batch following stride features"]]:
    batch, frames, channels = x.shape
    taps, each = self.overlap * self.stride, channels // self.groups
    kernel = self.param("kernel", _init, (each, taps, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    written = jnp.einsum(
      "bfgi,itgo->bftgo",
      x.reshape(batch, frames, self.groups, each),
      kernel.reshape(each, taps, self.groups, -1),
    ).reshape(batch, frames, self.overlap, self.stride, self.features)
    total = jnp.pad(state, ((0, 0), (0, frames), (0, 0), (0, 0)))
    for i in range(self.overlap):
      following = self.overlap - 1 - i
      total += jnp.pad(written[:, :, i], ((0, 0), (i, following), (0, 0), (0, 0)))
    y = total[:, :frames].reshape(batch, frames * self.stride, self.features)
    return y + bias, total[:, frames:]


class LyraResidualUnit(nn.Module):
  """Depthwise dilated convolution and two pointwise convolutions, added to the input.

  The first pointwise convolution is dense, the second is grouped.

  State: the last inputs of the depthwise convolution.
  """

  dilation: int
  groups: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time channels"], state: Float[Array, "batch context channels"]
  ) -> tuple[Float[Array, "batch time channels"], Float[Array, "batch context channels"]]:
    channels, at_once = x.shape[-1], x[:, :0]
    h, state = DepthwiseConv(self.dilation, name="dilated")(_activated(x), state)
    h, _ = GroupedConv(channels, 1, name="dense")(h, at_once)
    h, _ = GroupedConv(channels, 1, groups=self.groups, name="grouped")(_activated(h), at_once)
    return _limited(self, x + h), state


class DepthwiseConv(nn.Module):
  """Causal dilated convolution of each channel by itself, without a bias.

  State: the last `2 * dilation` inputs.
  """

  dilation: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time channels"], state: Float[Array, "batch context channels"]
  ) -> tuple[Float[Array, "batch time channels"], Float[Array, "batch context channels"]]:
    time, channels = x.shape[1:]
    kernel = self.param("kernel", _init, (_UNIT_KERNEL, channels))
    padded = jnp.concatenate([state, x], axis=1)
    y = jnp.zeros_like(x)
    for tap in range(_UNIT_KERNEL):
      y += kernel[tap] * padded[:, tap * self.dilation : tap * self.dilation + time]
    return _limited(self, y), padded[:, time:]
