"""The Descript Audio Codec (DAC): encoder, factorized quantizer, decoder, and its weights.

Source: Kumar, Seetharaman, Luebs, Kumar and Kumar, "High-Fidelity Audio Compression with Improved
RVQGAN", 2023 (arXiv 2306.06546).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Float, Int

from audiolm_jax.chunking import ChunkedModel, Reach, Sizes
from audiolm_jax.codec.causal import CausalConv, StridedConv, TransposedConv
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.core import modules, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Depth, SampleRate, Taps, Vocabulary, Width
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.pretrained.weights import PublishedWeights, fields_of

_DILATIONS = (1, 3, 9)
_KERNEL = 7
_OUTPUT_KERNEL = 3
_SIZES = Sizes.in_steps(512, 64)


@dataclasses.dataclass(frozen=True)
class DacConfig:
  """Shape of a DAC; the defaults are those of the 16 kHz model (50 Hz, 6 kbps).

  Attributes:
    sample_rate: Hz.
    encoder_channels: channels of the encoder's first layer; each block doubles them.
    decoder_channels: channels of the decoder's first layer; each block halves them.
    strides: down-sampling factors of the encoder's blocks; their product is the hop length.
    num_quantizers: residual levels.
    codebook_size: entries per level.
    codebook_dim: dimension in which the nearest entry is searched.

  Raises:
    ConfigError: the decoder's channels cannot be halved once for each stride.
  """

  sample_rate: SampleRate = 16_000
  encoder_channels: Width = 64
  decoder_channels: Width = 1536
  strides: tuple[Taps, ...] = (2, 4, 5, 8)
  num_quantizers: Depth = 12
  codebook_size: Vocabulary = 1024
  codebook_dim: Width = 8

  def __post_init__(self) -> None:
    if self.decoder_channels % 2 ** len(self.strides):
      raise ConfigError(
        f"decoder_channels {self.decoder_channels} cannot be halved {len(self.strides)} times, "
        "once for each stride"
      )

  @property
  def hop_length(self) -> int:
    """Samples per frame."""
    return math.prod(self.strides)

  @property
  def latent_dim(self) -> int:
    """Channels between encoder and decoder."""
    return self.encoder_channels * 2 ** len(self.strides)

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the codec."""
    latent, dim = self.latent_dim, self.codebook_dim
    levels = {
      "codebooks": (self.codebook_size, dim),
      "in_kernel": (latent, dim),
      "in_bias": (dim,),
      "out_kernel": (dim, latent),
      "out_bias": (latent,),
    }
    outer, inner = self.encoder_channels, self.decoder_channels
    encoder = {"input": shapes.convolution(_KERNEL, 1, outer)}
    decoder = {"input": shapes.convolution(_KERNEL, latent, inner)}
    for i, stride in enumerate(self.strides):
      encoder |= _unit_shapes(i, outer)
      encoder[f"block_{i}_snake"] = {"alpha": (outer,)}
      encoder[f"block_{i}_down"] = shapes.strided(stride, outer, 2 * outer)
      outer *= 2
    for i, stride in enumerate(reversed(self.strides)):
      decoder[f"block_{i}_snake"] = {"alpha": (inner,)}
      decoder[f"block_{i}_up"] = shapes.transposed(stride, inner, inner // 2)
      inner //= 2
      decoder |= _unit_shapes(i, inner)
    encoder |= {
      "snake": {"alpha": (outer,)},
      "output": shapes.convolution(_OUTPUT_KERNEL, outer, latent),
    }
    decoder |= {"snake": {"alpha": (inner,)}, "output": shapes.convolution(_KERNEL, inner, 1)}
    return {
      "encoder": encoder,
      "decoder": decoder,
      "quantizer": {name: (self.num_quantizers, *shape) for name, shape in levels.items()},
    }

  @property
  def spec(self) -> CodecSpec:
    """The sample rate, the hop length, the number of levels and the codebook size."""
    return CodecSpec(self.sample_rate, self.hop_length, self.num_quantizers, self.codebook_size)

  @property
  def encoder_reach(self) -> Reach:
    """The numbers of earlier and later frames that the codes of a frame depend on."""
    first, last = -(_OUTPUT_KERNEL // 2), _OUTPUT_KERNEL // 2
    for stride in reversed(self.strides):
      first, last = stride * first - _cut(stride), stride * last + 2 * stride - 1 - _cut(stride)
      first, last = first - _unit_reach(), last + _unit_reach()
    first, last = first - _KERNEL // 2, last + _KERNEL // 2
    return Reach(-(first // self.hop_length), last // self.hop_length)

  @property
  def decoder_reach(self) -> Reach:
    """The numbers of earlier and later frames that the samples of a frame depend on."""
    first, last = -(_KERNEL // 2), self.hop_length - 1 + _KERNEL // 2
    for stride in self.strides:
      first, last = first - _unit_reach(), last + _unit_reach()
      # Sample t of a transposed convolution depends on the inputs i with
      # 0 <= t + cut - stride * i < 2 * stride.
      first, last = (first + _cut(stride)) // stride - 1, (last + _cut(stride)) // stride
    return Reach(_KERNEL // 2 - first, last + _KERNEL // 2)


def _unit_shapes(block: int, channels: int) -> shapes.Shapes:
  unit = {
    "Snake_0": {"alpha": (channels,)},
    "dilated": shapes.convolution(_KERNEL, channels, channels),
    "Snake_1": {"alpha": (channels,)},
    "pointwise": shapes.convolution(1, channels, channels),
  }
  return {f"block_{block}_unit_{j}": unit for j in range(len(_DILATIONS))}


def _unit_reach() -> int:
  """Returns the number of samples that the residual units of a block read on each side."""
  return sum(_KERNEL // 2 * dilation for dilation in _DILATIONS)


def _cut(stride: int) -> int:
  """Returns the padding of a strided convolution at each end, which its transpose removes."""
  return -(-stride // 2)


class Snake(nn.Module):
  """The activation x + sin^2(alpha x) / alpha, with one alpha per channel.

  Source: Ziyin, Hartwig and Ueda, "Neural Networks Fail to Learn Periodic Functions", 2020.
  """

  @nn.compact
  def __call__(self, x: Float[Array, "batch time channels"]) -> Float[Array, "batch time channels"]:
    alpha = self.param("alpha", nn.initializers.ones, x.shape[-1:])
    return x + jnp.square(jnp.sin(alpha * x)) / (alpha + 1e-9)


class SnakeResidualUnit(nn.Module):
  """Snake, dilated convolution of kernel 7, snake, pointwise convolution, added to the input."""

  dilation: int

  @nn.compact
  def __call__(self, x: Float[Array, "batch time channels"]) -> Float[Array, "batch time channels"]:
    h = _centred(CausalConv(x.shape[-1], _KERNEL, self.dilation, name="dilated"), Snake()(x))
    pointwise = CausalConv(x.shape[-1], 1, name="pointwise")
    h, _ = pointwise(Snake()(h), jnp.zeros((len(x), 0, x.shape[-1])))
    return x + h


class DacEncoder(nn.Module):
  """Maps waveform to latents; before and after a row, the input of every layer is zero."""

  config: DacConfig

  @nn.compact
  def __call__(
    self, waveform: Float[Array, "batch samples"], ends: Int[Array, "batch"]
  ) -> Float[Array, "batch frames latent"]:
    """Returns the latents; `ends` are the lengths of rows in samples, multiples of a frame."""
    c = self.config
    channels = c.encoder_channels
    x = _until(ends, waveform[..., None])
    x = _until(ends, _centred(CausalConv(channels, _KERNEL, name="input"), x))
    for i, stride in enumerate(c.strides):
      for j, dilation in enumerate(_DILATIONS):
        x = _until(ends, SnakeResidualUnit(dilation, name=f"block_{i}_unit_{j}")(x))
      channels, ends = 2 * channels, ends // stride
      down = StridedConv(channels, stride, name=f"block_{i}_down")
      x = _earlier(down, Snake(name=f"block_{i}_snake")(x), stride, stride - _cut(stride))
      x = _until(ends, x)
    output = CausalConv(c.latent_dim, _OUTPUT_KERNEL, name="output")
    return _centred(output, Snake(name="snake")(x))


class DacDecoder(nn.Module):
  """Maps latents to waveform, zero after the end of a row.

  A layer with an odd stride returns only `stride * length - 1` samples, because it cuts half the
  stride, rounded up, at both ends. So the last samples of the last frame are missing: 8 samples for
  the strides 2, 4, 5, 8.
  """

  config: DacConfig

  @nn.compact
  def __call__(
    self, latents: Float[Array, "batch frames latent"], ends: Int[Array, "batch"]
  ) -> Float[Array, "batch samples"]:
    """Returns the samples; `ends` are the lengths of the rows in frames."""
    c = self.config
    channels = c.decoder_channels
    x = _centred(CausalConv(channels, _KERNEL, name="input"), _until(ends, latents))
    x = _until(ends, x)
    for i, stride in enumerate(reversed(c.strides)):
      channels, ends = channels // 2, stride * ends - stride % 2
      up = TransposedConv(channels, stride, name=f"block_{i}_up")
      x = _until(ends, _upsampled(up, Snake(name=f"block_{i}_snake")(x)))
      for j, dilation in enumerate(_DILATIONS):
        x = _until(ends, SnakeResidualUnit(dilation, name=f"block_{i}_unit_{j}")(x))
    x = _centred(CausalConv(1, _KERNEL, name="output"), Snake(name="snake")(x))
    return jnp.tanh(_until(ends, x))[..., 0]


def _until(ends: Int[Array, "batch"], x: Float[Array, "batch time channels"]):
  """Sets the samples after the end of each row to zero."""
  return jnp.where(jnp.arange(x.shape[1])[None, :, None] < ends[:, None, None], x, 0.0)


def _earlier(layer: nn.Module, x: Float[Array, "batch time channels"], context: int, ahead: int):
  """Runs a causal layer so that each output also depends on `ahead` later samples.

  The layer has `context` samples of left context. Its output is shifted by `ahead` samples, so each
  output depends on only `context - ahead` earlier samples.
  """
  padded = jnp.pad(x, ((0, 0), (context - ahead, ahead), (0, 0)))
  return layer(padded[:, context:], padded[:, :context])[0]


def _centred(layer: CausalConv, x: Float[Array, "batch time channels"]):
  return _earlier(layer, x, layer.context(), layer.context() // 2)


def _upsampled(layer: TransposedConv, x: Float[Array, "batch time channels"]):
  batch, time, _ = x.shape
  nothing = jnp.zeros((batch, layer.stride, layer.features))
  y, _ = layer(jnp.pad(x, ((0, 0), (0, 1), (0, 0))), nothing)
  start = _cut(layer.stride)
  return y[:, start : start + time * layer.stride]


def quantize(
  latents: Float[Array, "*batch latent"], params: Mapping[str, Array]
) -> tuple[Int[Array, "*batch quantizers"], Float[Array, "*batch latent"]]:
  """Selects at each level the entry with the smallest angle to the residual of previous levels.

  The angle is measured after the residual is projected to the dimension of the codebook.

  Args:
    latents: output of the encoder.
    params: for all levels, "codebooks" [quantizers, size, dim], the projections to their dimension
      "in_kernel" [quantizers, latent, dim] and "in_bias", and the projections back to latents
      "out_kernel" [quantizers, dim, latent] and "out_bias".

  Returns:
    Codes in [0, size), and the sum of the dequantized levels.

  Source: DAC, section 3.2.
  """

  def level(residual, p):
    projected = residual @ p["in_kernel"] + p["in_bias"]
    codes = jnp.argmax(_unit(projected) @ _unit(p["codebooks"]).T, axis=-1).astype(jnp.int32)
    found = p["codebooks"][codes] @ p["out_kernel"] + p["out_bias"]
    return residual - found, (codes, found)

  _, (codes, found) = lax.scan(level, latents, dict(params))
  return jnp.moveaxis(codes, 0, -1), jnp.sum(found, axis=0)


def dequantize(
  codes: Int[Array, "*batch levels"], params: Mapping[str, Array]
) -> Float[Array, "*batch latent"]:
  """Returns the latents from codes of the first levels; see `quantize` for `params`."""
  total = jnp.zeros((*codes.shape[:-1], params["out_bias"].shape[-1]))
  for level in range(codes.shape[-1]):
    entries = params["codebooks"][level][codes[..., level]]
    total += entries @ params["out_kernel"][level] + params["out_bias"][level]
  return total


def _unit(x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class DacCodec(ChunkedCodec):
  """DAC with the interface of codecs. It is not causal, so a stream has a delay.

  With the default strides, the last 8 decoded samples of a clip are zeros, see `DacDecoder`.
  """

  config: DacConfig

  @property
  def encoder(self) -> ChunkedModel:
    return self.encoder_of(encode_chunk, _SIZES, **self.config.encoder_reach._asdict())

  @property
  def decoder(self) -> ChunkedModel:
    return self.decoder_of(decode_chunk, _SIZES, **self.config.decoder_reach._asdict())

  @property
  def codebooks(self) -> Float[jax.Array, "quantizers size latent"]:
    q = self.params["quantizer"]
    return jnp.einsum("qnd,qdl->qnl", q["codebooks"], q["out_kernel"]) + q["out_bias"][:, None]


@functools.partial(StoredProgram, static_argnums=(0,))
def encode_chunk(
  config: DacConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: None
) -> tuple[jax.Array, None]:
  ends = -(-ends // config.hop_length) * config.hop_length
  latents = modules.apply(DacEncoder(config), params["encoder"], waveform, ends)
  return quantize(latents, params["quantizer"])[0], state


@functools.partial(StoredProgram, static_argnums=(0,))
def decode_chunk(
  config: DacConfig, params: Params, codes: jax.Array, ends: jax.Array, state: None
) -> tuple[jax.Array, None]:
  latents = dequantize(codes, params["quantizer"])
  return modules.apply(DacDecoder(config), params["decoder"], latents, ends), state


def read_config(published: Json) -> DacConfig:
  """Returns the configuration from the `config.json` of a model of Hugging Face transformers.

  Raises:
    ConfigError: the model is not a DAC, a field is missing, or a value is not supported.
  """
  with fields_of(published, "dac"):
    return DacConfig(
      sample_rate=published["sampling_rate"],
      encoder_channels=published["encoder_hidden_size"],
      decoder_channels=published["decoder_hidden_size"],
      strides=tuple(published["downsampling_ratios"]),
      num_quantizers=published["n_codebooks"],
      codebook_size=published["codebook_size"],
      codebook_dim=published["codebook_dim"],
    )


def convert(published: Json, weights: PublishedWeights) -> DacCodec:
  """Returns the codec from a published DAC in the format of Hugging Face transformers.

  Args:
    published: content of the `config.json` of the model.
    weights: tensors of the model by name, weight-normalized or plain.

  Raises:
    ConfigError: `published` is invalid, see `read_config`, or a tensor has a wrong shape.
    DataError: a tensor is missing or unused.
  """
  config = read_config(published)
  encoder = {
    "input": weights.convolution("encoder.conv1"),
    "snake": _snake(weights, "encoder.snake1"),
    "output": weights.convolution("encoder.conv2"),
  }
  decoder = {
    "input": weights.convolution("decoder.conv1"),
    "snake": _snake(weights, "decoder.snake1"),
    "output": weights.convolution("decoder.conv2"),
  }
  for i in range(len(config.strides)):
    encoder |= _block(weights, f"encoder.block.{i}", i)
    encoder[f"block_{i}_down"] = weights.strided_convolution(f"encoder.block.{i}.conv1")
    decoder |= _block(weights, f"decoder.block.{i}", i)
    decoder[f"block_{i}_up"] = weights.transposed_convolution(f"decoder.block.{i}.conv_t1")
  levels = [_level(weights, f"quantizer.quantizers.{q}") for q in range(config.num_quantizers)]
  quantizer = jax.tree.map(lambda *tables: np.stack(tables), *levels)
  weights.check_all_used()
  params = {"encoder": encoder, "decoder": decoder, "quantizer": quantizer}
  weights.check_shapes(params, config.parameter_shapes())
  return DacCodec(config, params)


def _block(weights: PublishedWeights, name: str, index: int) -> Params:
  block: dict[str, Params] = {f"block_{index}_snake": _snake(weights, f"{name}.snake1")}
  for j in range(len(_DILATIONS)):
    unit = f"{name}.res_unit{j + 1}"
    block[f"block_{index}_unit_{j}"] = {
      "Snake_0": _snake(weights, f"{unit}.snake1"),
      "dilated": weights.convolution(f"{unit}.conv1"),
      "Snake_1": _snake(weights, f"{unit}.snake2"),
      "pointwise": weights.convolution(f"{unit}.conv2"),
    }
  return block


def _snake(weights: PublishedWeights, name: str) -> dict[str, np.ndarray]:
  return {"alpha": weights.take(f"{name}.alpha").reshape(-1)}


def _level(weights: PublishedWeights, name: str) -> dict[str, np.ndarray]:
  inwards, outwards = (weights.convolution(f"{name}.{way}_proj") for way in ("in", "out"))
  return {
    "codebooks": weights.take(f"{name}.codebook.weight"),
    "in_kernel": inwards["kernel"][0],
    "in_bias": inwards["bias"],
    "out_kernel": outwards["kernel"][0],
    "out_bias": outwards["bias"],
  }
