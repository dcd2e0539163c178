"""The networks of EnCodec: causal convolutions with reflected padding, and LSTMs.

At the start of a clip, every convolution except the transposed convolutions is padded with a
reflection of its own input. SoundStream pads with zeros instead. Because of the reflection, the
first frames depend on later frames. If a clip ends within a block of a strided layer, this layer
also reflects its input at the end. A clip processed in pieces gives the results of the whole
clip if the first piece has at least `first_frames` frames.

Source: Défossez, Copet, Synnaeve and Adi, "High Fidelity Neural Audio Compression", 2022 (arXiv
2210.13438), section 3.1; the padding is that of the published model.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Bool, Float, Int

from audiolm_jax.chunking import Sizes
from audiolm_jax.codec.causal import CausalConv, State, Streamed, StridedConv, TransposedConv, elu
from audiolm_jax.codec.residual_codec import ResidualConfig
from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.ranges import Depth, SampleRate, Taps, Vocabulary, Width

KERNEL = 7
UNIT_KERNEL = 3
UNIT_SQUEEZE = 2
LSTM_LAYERS = 2


@dataclasses.dataclass(frozen=True)
class EncodecConfig(ResidualConfig):
  """Shape of a causal EnCodec; the defaults are those of the 24 kHz model (75 Hz, 24 kbit/s).

  Attributes:
    sample_rate: Hz.
    channels: channels of the layers next to the waveform; each stride doubles them.
    strides: down-sampling factors of the encoder's blocks; their product is the hop length.
    latent_dim: dimension of the latents that are quantized.
    num_quantizers: residual levels.
    codebook_size: entries per level.
    search_width: see `ResidualConfig`.
  """

  sample_rate: SampleRate = 24_000
  channels: Width = 32
  strides: tuple[Taps, ...] = (2, 4, 5, 8)
  latent_dim: Width = 128
  num_quantizers: Depth = 32
  codebook_size: Vocabulary = 1024
  search_width: Depth = 1
  # 10 s at the published rate.
  chunk_sizes: ClassVar[Sizes] = Sizes.in_steps(750, 75)

  @property
  def hop_length(self) -> int:
    """Samples per frame."""
    return math.prod(self.strides)

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""
    latent, outer = self.latent_dim, self.channels
    inner = outer * 2 ** len(self.strides)
    encoder = {
      "input": shapes.convolution(KERNEL, 1, outer),
      "lstm": _lstm_shapes(inner),
      "output": shapes.convolution(KERNEL, inner, latent),
    }
    decoder = {
      "input": shapes.convolution(KERNEL, latent, inner),
      "lstm": _lstm_shapes(inner),
      "output": shapes.convolution(KERNEL, outer, 1),
    }
    for i, stride in enumerate(self.strides):
      encoder |= _unit_shapes(i, outer)
      encoder[f"block_{i}_down"] = shapes.strided(stride, outer, 2 * outer)
      outer *= 2
    for i, stride in enumerate(reversed(self.strides)):
      decoder[f"block_{i}_up"] = shapes.transposed(stride, inner, inner // 2)
      inner //= 2
      decoder |= _unit_shapes(i, inner)
    codebooks = (self.num_quantizers, self.codebook_size, latent)
    return {"encoder": encoder, "decoder": decoder, "codebooks": codebooks}

  @property
  def first_frames(self) -> int:
    """The number of frames that the first frame depends on, because of the reflections."""
    needed, hop = [KERNEL, -(-KERNEL // self.hop_length)], self.hop_length
    for stride in self.strides:
      needed += [-(-UNIT_KERNEL // hop), -(-(stride + 1) // hop)]
      hop //= stride
    return max(needed)

  @property
  def encoder(self) -> "EncodecEncoder":
    return EncodecEncoder(self)

  @property
  def decoder(self) -> "EncodecDecoder":
    return EncodecDecoder(self)

  def encoder_state(self, batch: int) -> State:
    channels = self.channels
    shapes = [(batch, KERNEL - 1, 1)]
    for stride in self.strides:
      shapes += [(batch, UNIT_KERNEL - 1, channels), (batch, stride, channels)]
      channels *= 2
    shapes += [(2, LSTM_LAYERS, batch, channels), (batch, KERNEL - 1, channels)]
    return (jnp.zeros((), bool), *map(jnp.zeros, shapes))

  def decoder_state(self, batch: int) -> State:
    channels = self.channels * 2 ** len(self.strides)
    shapes = [(batch, KERNEL - 1, self.latent_dim), (2, LSTM_LAYERS, batch, channels)]
    for stride in reversed(self.strides):
      channels //= 2
      shapes += [(batch, stride, channels), (batch, UNIT_KERNEL - 1, channels)]
    shapes += [(batch, KERNEL - 1, channels)]
    return (jnp.zeros((), bool), *map(jnp.zeros, shapes))


def _unit_shapes(block: int, channels: int) -> shapes.Shapes:
  squeezed = channels // UNIT_SQUEEZE
  parts = {
    "squeeze": shapes.convolution(UNIT_KERNEL, channels, squeezed),
    "expand": shapes.convolution(1, squeezed, channels),
    "direct": shapes.convolution(1, channels, channels),
  }
  return {f"block_{block}_unit_{name}": part for name, part in parts.items()}


def _lstm_shapes(features: int) -> shapes.Shapes:
  kernel = (LSTM_LAYERS, features, 4 * features)
  return {
    "input_kernel": kernel,
    "recurrent_kernel": kernel,
    "bias": (LSTM_LAYERS, 4 * features),
  }


class EncodecEncoder(nn.Module):
  """Maps waveform to latents."""

  config: EncodecConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch frames latent"], State]:
    """Returns the latents and the next state.

    Args:
      waveform: whole frames of samples.
      ends: number of samples from the start of the waveform to the end of each clip.
      state: the state of the layers.
    """
    c = self.config
    run = _Streamed(state)
    channels = c.channels
    x = run.mirrored(CausalConv(channels, KERNEL, name="input"), waveform[..., None], ends)
    for i, stride in enumerate(c.strides):
      channels *= 2
      x = run.unit(f"block_{i}_unit", x, ends)
      x = run.strided(StridedConv(channels, stride, name=f"block_{i}_down"), elu(x), ends)
      ends = -(-ends // stride)
    x = run(Lstm(channels, name="lstm"), x)
    x = run.mirrored(CausalConv(c.latent_dim, KERNEL, name="output"), elu(x), ends)
    return x, run.state


class EncodecDecoder(nn.Module):
  """Maps latents to waveform with the layers of the encoder in reverse."""

  config: EncodecConfig

  @nn.compact
  def __call__(
    self, latents: Float[Array, "batch frames latent"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch samples"], State]:
    """Returns the samples and the next state.

    Args:
      latents: latents of the frames.
      ends: number of frames from the start of the latents to the end of each clip.
      state: the state of the layers.
    """
    c = self.config
    run = _Streamed(state)
    channels = c.channels * 2 ** len(c.strides)
    x = run.mirrored(CausalConv(channels, KERNEL, name="input"), latents, ends)
    x = run(Lstm(channels, name="lstm"), x)
    for i, stride in enumerate(reversed(c.strides)):
      channels, ends = channels // 2, ends * stride
      x = run(TransposedConv(channels, stride, name=f"block_{i}_up"), elu(x))
      x = run.unit(f"block_{i}_unit", x, ends)
    x = run.mirrored(CausalConv(1, KERNEL, name="output"), elu(x), ends)
    return x[..., 0], run.state


class Lstm(nn.Module):
  """Layers of long short-term memory (LSTM); their output is added to the input of the first layer.

  State: output and cell of each LSTM layer, [2, layers, batch, features].
  """

  features: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch time features"],
    state: Float[Array, "2 layers batch features"],
  ) -> tuple[Float[Array, "batch time features"], Float[Array, "2 layers batch features"]]:
    shape = (LSTM_LAYERS, self.features, 4 * self.features)
    inwards = self.param("input_kernel", nn.initializers.orthogonal(), shape)
    onwards = self.param("recurrent_kernel", nn.initializers.orthogonal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (LSTM_LAYERS, shape[-1]))
    y, after = jnp.swapaxes(x, 0, 1), []
    for layer in range(LSTM_LAYERS):

      def step(carry, driven, kernel=onwards[layer]):
        output, cell = carry
        admit, keep, new, show = jnp.split(driven + output @ kernel, 4, axis=-1)
        cell = nn.sigmoid(keep) * cell + nn.sigmoid(admit) * jnp.tanh(new)
        output = nn.sigmoid(show) * jnp.tanh(cell)
        return (output, cell), output

      before = (state[0, layer], state[1, layer])
      carry, y = lax.scan(step, before, y @ inwards[layer] + bias[layer])
      after.append(jnp.stack(carry))
    return x + jnp.swapaxes(y, 0, 1), jnp.stack(after, axis=1)


class _Streamed(Streamed):
  """Runs layers on the pieces of a stream, with reflected padding at the start and end of clips."""

  def __init__(self, state: State):
    super().__init__(state[1:])
    self._started: Bool[Array, ""] = state[0]

  @property
  def state(self) -> State:
    """Whether the clip has begun, and the new states of the layers that ran."""
    return (jnp.ones((), bool), *super().state)

  def mirrored(self, layer: nn.Module, x: jax.Array, ends: jax.Array) -> jax.Array:
    """Runs a layer whose input is reflected before the start of the clip."""
    return self.run(layer, x, self._past(x, ends))

  def strided(self, layer: StridedConv, x: jax.Array, ends: jax.Array) -> jax.Array:
    """Runs a layer whose input is reflected before the start and after the end of the clip.

    The reflection after the end fills the last block of the layer; an input that is too short for a
    reflection is filled with zeros.
    """
    past = self._past(x, ends)
    time = jnp.arange(x.shape[1])[None]
    ended, stride = time >= ends[:, None], layer.stride
    source = jnp.where(ended, 2 * ends[:, None] - 2 - time, time) + stride
    whole = jnp.concatenate([past, x], axis=1)
    whole = jnp.take_along_axis(whole, source.clip(0, whole.shape[1] - 1)[..., None], axis=1)
    # Inputs that are too short for a reflection are padded with zeros.
    short = ~self._started & (ends <= stride)[:, None] & ended
    return self.run(layer, jnp.where(short[..., None], 0.0, whole), past)

  def unit(self, name: str, x: jax.Array, ends: jax.Array) -> jax.Array:
    """Runs a residual unit whose shortcut is a pointwise convolution.

    Its other branch is ELU, a convolution to fewer channels, ELU and a pointwise convolution.
    """
    channels, at_once = x.shape[-1], x[:, :0]
    squeeze = CausalConv(channels // UNIT_SQUEEZE, UNIT_KERNEL, name=f"{name}_squeeze")
    h = self.mirrored(squeeze, elu(x), ends)
    h, _ = CausalConv(channels, 1, name=f"{name}_expand")(elu(h), at_once)
    direct, _ = CausalConv(channels, 1, name=f"{name}_direct")(x, at_once)
    return direct + h

  def _past(self, x: jax.Array, ends: jax.Array) -> jax.Array:
    """Returns a layer's part of the state or, at the start, the reflection of its first inputs."""
    past = next(self._before)
    context = past.shape[1]
    following = x[:, 1 : context + 1]
    here = jnp.arange(1, following.shape[1] + 1) < ends[:, None]
    following = jnp.where(here[..., None], following, 0.0)
    following = jnp.pad(following, ((0, 0), (0, context - following.shape[1]), (0, 0)))
    return jnp.where(self._started, past, following[:, ::-1])
