"""The networks of Mimi: causal convolutions, transformers at 25 Hz, and layers from and to 12.5 Hz.

Every layer is padded with zeros before the start of a clip and, if the clip ends within a block of
a strided layer, after its end. The only exception is `Halving`, the last layer of the encoder: it
is padded with its first input and with its last input.

Source: Défossez and others, "Moshi: a speech-text foundation model for real-time dialogue", 2024
(arXiv 2410.00037), section 3.3; the padding is that of the published model.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from audiolm_jax.codec.causal import CausalConv, State, Streamed, StridedConv, TransposedConv, elu
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.ranges import Depth, SampleRate, Taps, Vocabulary, Width
from audiolm_jax.pretrained.mimi_transformer import (
  MimiTransformer,
  MimiTransformerConfig,
  transformer_state,
)

KERNEL = 7
LAST_KERNEL = 3
UNIT_KERNEL = 3
UNIT_SQUEEZE = 2
HALVING = 2  # positions of the transformers per frame


@dataclasses.dataclass(frozen=True)
class MimiConfig:
  """Shape of a Mimi; the defaults are those of the published model (12.5 Hz, 32 levels).

  Attributes:
    sample_rate: Hz.
    channels: channels of the layers next to the waveform; each stride doubles them.
    strides: down-sampling factors of the encoder's blocks; the number of samples of a frame is
      twice the product of the factors.
    transformer: shape of the transformers of encoder and decoder; `transformer.dim` is also the
      dimension of the latents.
    num_quantizers: number of levels, semantic and acoustic together.
    num_semantic_quantizers: number of levels of the first half, the semantic half, which was
      distilled from a semantic model. The second half, the acoustic half, quantizes the latents
      themselves, not the residual of the first half.
    codebook_size: entries per level.
    codebook_dim: dimension of an entry. Each half projects latents to this dimension, and entries
      back to latents.
  """

  sample_rate: SampleRate = 24_000
  channels: Width = 64
  strides: tuple[Taps, ...] = (4, 5, 6, 8)
  transformer: MimiTransformerConfig = MimiTransformerConfig()
  num_quantizers: Depth = 32
  num_semantic_quantizers: Depth = 1
  codebook_size: Vocabulary = 2048
  codebook_dim: Width = 256

  @property
  def hop_length(self) -> int:
    """Samples per frame."""
    return HALVING * math.prod(self.strides)

  @property
  def spec(self) -> CodecSpec:
    """The sample rate, the hop length, the number of levels and the codebook size."""
    return CodecSpec(self.sample_rate, self.hop_length, self.num_quantizers, self.codebook_size)

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""
    dim, outer = self.transformer.dim, self.channels
    inner, few = outer * 2 ** len(self.strides), self.codebook_dim
    encoder = {
      "input": shapes.convolution(KERNEL, 1, outer),
      "output": shapes.convolution(LAST_KERNEL, inner, dim),
      "transformer": self.transformer.parameter_shapes(),
      "halving": {"conv": shapes.strided(HALVING, dim, dim)},
      **{half: shapes.dense(dim, few, bias=False) for half in ("semantic", "acoustic")},
    }
    decoder = {
      "doubling": {"kernel": (2, HALVING, dim)},
      "transformer": self.transformer.parameter_shapes(),
      "input": shapes.convolution(KERNEL, dim, inner),
      "output": shapes.convolution(LAST_KERNEL, outer, 1),
      **{half: shapes.dense(few, dim, bias=False) for half in ("semantic", "acoustic")},
    }
    for i, stride in enumerate(self.strides):
      encoder[f"block_{i}_unit"] = _unit_shapes(outer)
      encoder[f"block_{i}_down"] = shapes.strided(stride, outer, 2 * outer)
      outer *= 2
    for i, stride in enumerate(reversed(self.strides)):
      decoder[f"block_{i}_up"] = shapes.transposed(stride, inner, inner // 2)
      inner //= 2
      decoder[f"block_{i}_unit"] = _unit_shapes(inner)
    codebooks = (self.num_quantizers, self.codebook_size, few)
    return {"encoder": encoder, "decoder": decoder, "codebooks": codebooks}

  def encoder_state(self, batch: int) -> State:
    """Returns the state of `MimiEncoder` at the start of a clip."""
    channels, dim = self.channels, self.transformer.dim
    shapes = [(KERNEL - 1, 1)]
    for stride in self.strides:
      shapes += [(UNIT_KERNEL - 1, channels), (stride, channels)]
      channels *= 2
    shapes += [(LAST_KERNEL - 1, channels)]
    halving = (jnp.zeros((), bool), jnp.zeros((batch, HALVING, dim)))
    convolutions = [jnp.zeros((batch, *shape)) for shape in shapes]
    return (*convolutions, transformer_state(self.transformer, batch), halving)

  def decoder_state(self, batch: int) -> State:
    """Returns the state of `MimiDecoder` at the start of a clip."""
    channels, dim = self.channels * 2 ** len(self.strides), self.transformer.dim
    shapes = [(KERNEL - 1, dim)]
    for stride in reversed(self.strides):
      channels //= 2
      shapes += [(stride, channels), (UNIT_KERNEL - 1, channels)]
    shapes += [(LAST_KERNEL - 1, channels)]
    doubling = jnp.zeros((batch, HALVING, dim))
    convolutions = [jnp.zeros((batch, *shape)) for shape in shapes]
    return (doubling, transformer_state(self.transformer, batch), *convolutions)


def _unit_shapes(channels: int) -> shapes.Shapes:
  squeezed = channels // UNIT_SQUEEZE
  return {
    "squeeze": shapes.convolution(UNIT_KERNEL, channels, squeezed),
    "expand": shapes.convolution(1, squeezed, channels),
  }


class MimiEncoder(nn.Module):
  """Maps waveform to the inputs of the semantic and the acoustic quantizer."""

  config: MimiConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"], state: State
  ) -> tuple[Float[Array, "batch frames 2 dim"], State]:
    """Returns the projected latents for the semantic and the acoustic half, and the next state.

    Args:
      waveform: whole frames of samples.
      ends: number of samples from the start of the waveform to the end of each clip.
      state: see `MimiConfig.encoder_state`.
    """
    c = self.config
    run = Streamed(state)
    channels = c.channels
    x = run(CausalConv(channels, KERNEL, name="input"), waveform[..., None])
    for i, stride in enumerate(c.strides):
      channels *= 2
      x = run(MimiResidualUnit(name=f"block_{i}_unit"), x)
      x = jnp.where((jnp.arange(x.shape[1]) < ends[:, None])[..., None], elu(x), 0.0)
      x = run(StridedConv(channels, stride, name=f"block_{i}_down"), x)
      ends = -(-ends // stride)
    x = run(CausalConv(c.transformer.dim, LAST_KERNEL, name="output"), elu(x))
    x = run(MimiTransformer(c.transformer, name="transformer"), x)
    x = run(Halving(name="halving"), _held(x, ends))
    halves = [_projection(c.codebook_dim, half)(x) for half in ("semantic", "acoustic")]
    return jnp.stack(halves, axis=2), run.state


class MimiDecoder(nn.Module):
  """Maps the sum of entries of each half (semantic, acoustic) to waveform; reverses the encoder."""

  config: MimiConfig

  @nn.compact
  def __call__(
    self, sums: Float[Array, "batch frames 2 dim"], state: State
  ) -> tuple[Float[Array, "batch samples"], State]:
    c = self.config
    run = Streamed(state)
    channels = c.channels * 2 ** len(c.strides)
    semantic, acoustic = (_projection(c.transformer.dim, h) for h in ("semantic", "acoustic"))
    x = run(Doubling(name="doubling"), semantic(sums[:, :, 0]) + acoustic(sums[:, :, 1]))
    x = run(MimiTransformer(c.transformer, name="transformer"), x)
    x = run(CausalConv(channels, KERNEL, name="input"), x)
    for i, stride in enumerate(reversed(c.strides)):
      channels //= 2
      x = run(TransposedConv(channels, stride, name=f"block_{i}_up"), elu(x))
      x = run(MimiResidualUnit(name=f"block_{i}_unit"), x)
    x = run(CausalConv(1, LAST_KERNEL, name="output"), elu(x))
    return x[..., 0], run.state


class MimiResidualUnit(nn.Module):
  """ELU, convolution to fewer channels, ELU, pointwise convolution; added to the input.

  State: the state of the first convolution.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time channels"], state: Float[Array, "batch context squeezed"]
  ) -> tuple[Float[Array, "batch time channels"], Float[Array, "batch context squeezed"]]:
    channels = x.shape[-1]
    squeeze = CausalConv(channels // UNIT_SQUEEZE, UNIT_KERNEL, name="squeeze")
    h, state = squeeze(elu(x), state)
    h, _ = CausalConv(channels, 1, name="expand")(elu(h), state)
    return x + h, state


class Halving(nn.Module):
  """Strided convolution with one output per two inputs.

  An output also depends on the two inputs before these inputs.

  State: whether the clip has begun, and its last two inputs. At the start of a clip, copies of the
  first input replace the last two inputs.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch time dim"], state: tuple[Array, Float[Array, "batch _ dim"]]
  ) -> tuple[Float[Array, "batch frames dim"], tuple[Array, Float[Array, "batch _ dim"]]]:
    started, past = state
    past = jnp.where(started, past, x[:, :1])
    y, past = StridedConv(x.shape[-1], HALVING, name="conv")(x, past)
    return y, (jnp.ones((), bool), past)


class Doubling(nn.Module):
  """Depthwise transposed convolution with two outputs per input.

  An input also contributes to the two outputs of the next input.

  State: the contribution of the last input to the two outputs of the next input.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch frames dim"], state: Float[Array, "batch _ dim"]
  ) -> tuple[Float[Array, "batch time dim"], Float[Array, "batch _ dim"]]:
    batch, frames, dim = x.shape
    kernel = self.param("kernel", nn.initializers.ones, (2, HALVING, dim))
    own, following = x[:, :, None] * kernel[0], x[:, :, None] * kernel[1]
    carried = jnp.concatenate([state[:, None], following[:, :-1]], axis=1)
    return (own + carried).reshape(batch, frames * HALVING, dim), following[:, -1]


def _projection(features: int, half: str) -> nn.Dense:
  return nn.Dense(features, use_bias=False, name=half)


def _held(x: Float[Array, "batch time dim"], ends: Int[Array, "batch"]) -> jax.Array:
  """Replaces the inputs after the end of each row by the last input of the row."""
  source = jnp.minimum(jnp.arange(x.shape[1]), jnp.maximum(ends[:, None] - 1, 0))
  return jnp.take_along_axis(x, source[..., None], axis=1)
