"""The Conformer encoder: maps log-mel frames at 100 Hz to features at 25 Hz with finite context."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from audiolm_jax.chunking import Reach
from audiolm_jax.core import configs, modules, products, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.layers import Remat, recomputed, scanned
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import DepthOrNone, DType, Share, Steps, Taps, Width
from audiolm_jax.semantic.features import LogMelConfig

FRAMES_PER_STEP = 4
# The two strided convolutions (kernel 3) read three frames before a step and none after it.
_SUBSAMPLE_LOOKBACK = 3


@dataclasses.dataclass(frozen=True)
class ConformerConfig(configs.Renewed):
  """Shape of the encoder; the defaults are the values of w2v-BERT XL, 583 M parameters.

  `stacks` has the number of blocks in each stack; the default stacks are the contrastive and the
  masked-prediction blocks of w2v-BERT. In each block, a step attends to the `left_context` previous
  steps, to itself and to the `right_context` next steps. A step is four frames, 40 ms by default.
  Because context is limited and positions are relative, long audio can be encoded in chunks.
  Dropout uses one mask for all steps of an example, as in T5X. `remat` is a member of `Remat` or
  its string value.

  Raises:
    ConfigError: `dim` is not a multiple of `num_heads`; `kernel_size` is even; a context is
      negative; the number of mel bands is not a multiple of 4; or `remat` is unknown.
  """

  features: LogMelConfig = LogMelConfig()
  stacks: tuple[DepthOrNone, ...] = (12, 12)
  dim: Width = 1024
  num_heads: Width = 16
  mlp_dim: Width = 4096
  kernel_size: Taps = 5
  subsample_channels: Width = 128
  left_context: Steps = 64
  right_context: Steps = 64
  dropout_rate: Share = 0.1
  dtype: DType = "float32"
  scan_layers: bool = False
  remat: Remat | str = Remat.NONE

  @classmethod
  def renewed(cls, values: configs.Json) -> configs.Json:
    """Converts a boolean value of `remat`, which earlier versions wrote, to a value of `Remat`."""
    words = {False: Remat.NONE.value, True: Remat.FULL.value}
    remat = values.get("remat")
    return {**values, "remat": words[remat]} if isinstance(remat, bool) else values

  def __post_init__(self) -> None:
    configs.set_members(self, remat=Remat)
    if self.dim % self.num_heads:
      raise ConfigError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
    if self.kernel_size % 2 == 0:
      raise ConfigError(f"kernel_size {self.kernel_size} must be odd, to be centred")
    if min(self.left_context, self.right_context) < 0:
      raise ConfigError("left_context and right_context are steps, 0 or more")
    if self.features.num_mels % 4:
      raise ConfigError(f"num_mels {self.features.num_mels} must be a multiple of 4")

  @property
  def num_layers(self) -> int:
    """Number of Conformer blocks in all stacks."""
    return sum(self.stacks)

  @property
  def hop_length(self) -> int:
    """Samples per step."""
    return FRAMES_PER_STEP * self.features.hop_length

  def num_steps(self, num_samples: int) -> int:
    """Returns the number of steps of `num_samples` samples, rounded up."""
    return -(-num_samples // self.hop_length)

  def forward_flops(self, num_steps: int) -> float:
    """Returns the FLOPs of the encoder's matrix products and convolutions for one clip.

    In attention, only pairs of a step and a step in its context are counted.
    """
    bands, channels, dim = self.features.num_mels, self.subsample_channels, self.dim
    width = self.left_context + self.right_context + 1
    subsample = 9 * bands * channels + 9 * bands // 4 * channels**2 + bands // 4 * channels * dim
    feed_forward = 2 * 2 * dim * self.mlp_dim
    attention = 4 * dim**2 + dim * width  # dim * width for the products with the relative keys
    convolution = 3 * dim**2 + self.kernel_size * dim
    steps = np.arange(num_steps)
    seen = np.minimum(steps + self.right_context, num_steps - 1) + 1
    pairs = int(np.sum(seen - np.maximum(steps - self.left_context, 0)))
    block = num_steps * (feed_forward + attention + convolution) + 2 * pairs * dim
    return 2.0 * (num_steps * subsample + self.num_layers * block)

  def truncated(self, layer: int) -> "ConformerConfig":
    """Returns the configuration with only the first `layer` blocks, counted through all stacks.

    Raises:
      ConfigError: the encoder has fewer blocks than `layer`, or `layer` is negative.
    """
    if not 0 <= layer <= self.num_layers:
      raise ConfigError(f"layer {layer} is not in 0..{self.num_layers}")
    stacks = []
    for depth in self.stacks:
      stacks.append(min(depth, layer))
      layer -= stacks[-1]
    return dataclasses.replace(self, stacks=tuple(stacks))

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of `ConformerEncoder`."""
    channels, dim = self.subsample_channels, self.dim
    found: shapes.Shapes = {
      "subsampling": {
        "conv_0": shapes.dense(9, channels),
        "conv_1": shapes.dense(9 * channels, channels),
        "project": shapes.dense(self.features.num_mels // 4 * channels, dim),
        "norm": shapes.norm(dim),
      }
    }
    for index, depth in enumerate(self.stacks):
      if self.scan_layers and depth:
        layers = {"layers": _stacked(self._block_shapes(), depth)}
      else:
        layers = {f"layer_{i}": self._block_shapes() for i in range(depth)}
      found |= {f"stacks_{index}": layers} if depth else {}
    return found

  def _block_shapes(self) -> shapes.Shapes:
    dim, positions = self.dim, self.left_context + self.right_context + 1
    feed_forward = {
      "norm": shapes.norm(dim),
      "expand": shapes.dense(dim, self.mlp_dim),
      "contract": shapes.dense(self.mlp_dim, dim),
    }
    return {
      "feed_forward_0": feed_forward,
      "attention": {
        "norm": shapes.norm(dim),
        **{name: shapes.dense(dim, dim) for name in ("query", "key", "value", "out")},
        "relative_keys": (positions, dim // self.num_heads),
      },
      "convolution": {
        "norm": shapes.norm(dim),
        "expand": shapes.dense(dim, 2 * dim),
        "depthwise": (self.kernel_size, dim),
        "depthwise_norm": shapes.norm(dim),
        "project": shapes.dense(dim, dim),
      },
      "feed_forward_1": feed_forward,
      "norm": shapes.norm(dim),
    }

  def receptive_field(self, layer: int | None = None) -> Reach:
    """Returns the numbers of earlier and later steps that the features after a block depend on.

    Args:
      layer: number of the block; 0 for the input of the first block, None for the last block.
    """
    depth = self.truncated(self.num_layers if layer is None else layer).num_layers
    reach = (self.kernel_size - 1) // 2
    lookback = _SUBSAMPLE_LOOKBACK * self.features.hop_length + self.features.margin
    return Reach(
      left=-(-lookback // self.hop_length) + depth * (self.left_context + reach),
      right=-(-self.features.margin // self.hop_length) + depth * (self.right_context + reach),
    )


def _stacked(layer: shapes.Shapes, depth: int) -> shapes.Shapes:
  """Returns the parameter shapes of `depth` layers that are stacked along a new first axis."""
  return {k: _stacked(v, depth) if isinstance(v, dict) else (depth, *v) for k, v in layer.items()}


class ConformerEncoder(nn.Module):
  """Maps log-mel frames to features by `subsample`, then by all stacks in sequence.

  Source: Conformer (Gulati et al. 2020), with layer normalisation instead of batch normalisation.
  """

  config: ConformerConfig

  def setup(self) -> None:
    self.subsampling = Subsampling(self.config)
    self.stacks = [ConformerStack(self.config, depth) for depth in self.config.stacks]

  def __call__(
    self,
    features: Float[Array, "batch frames mels"],
    valid: Bool[Array, "batch steps"],
    deterministic: bool = True,
  ) -> Float[Array, "batch steps dim"]:
    """Returns features after the last block, one vector per 4 frames.

    Args:
      features: log-mel features.
      valid: False for steps to mask.
      deterministic: whether to disable dropout.
    """
    x = self.subsample(features, valid)
    for index in range(len(self.config.stacks)):
      x = self.stack(index, x, valid, deterministic)
    return x

  def subsample(
    self, features: Float[Array, "batch frames mels"], valid: Bool[Array, "batch steps"]
  ) -> Float[Array, "batch steps dim"]:
    """Returns the input of the first stack, one vector per 4 frames."""
    return self.subsampling(features, valid)

  def stack(
    self,
    index: int,
    x: Float[Array, "batch steps dim"],
    valid: Bool[Array, "batch steps"],
    deterministic: bool = True,
  ) -> Float[Array, "batch steps dim"]:
    """Runs one stack of blocks."""
    return self.stacks[index](x, valid, deterministic)


class Subsampling(nn.Module):
  """Two 2-D convolutions of stride 2 x 2 and a projection: four frames become one step."""

  config: ConformerConfig

  @nn.compact
  def __call__(
    self, features: Float[Array, "batch frames mels"], valid: Bool[Array, "batch steps"]
  ) -> Float[Array, "batch steps dim"]:
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    mask = jnp.repeat(valid, FRAMES_PER_STEP, axis=1)
    x = (features * mask[..., None]).astype(dtype)[..., None]
    for index in (0, 1):
      x = StridedConv2d(config.subsample_channels, config.dtype, name=f"conv_{index}")(x)
      x = nn.relu(x)
      mask = mask[:, ::2]
      x = x * mask[..., None, None].astype(dtype)
    x = x.reshape(*x.shape[:2], -1)
    x = dense(config.dim, ("conv_in", "embed"), config.dtype, name="project")(x)
    return layer_norm(config.dtype, name="norm")(x)


class StridedConv2d(nn.Module):
  """A 3 x 3 convolution of stride 2 x 2 over [batch, time, frequency, channels].

  Output i replaces inputs 2i and 2i + 1 along time and frequency, and depends on inputs 2i - 1 to
  2i + 1 only. The convolution is computed as one matrix product over nine concatenated slices. On
  CPUs, this product has a faster backward pass than XLA's convolution.
  """

  channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "batch t f c"]) -> Float[Array, "batch t2 f2 channels"]:
    size = x.shape[-1]
    kernel = modules.param(
      self,
      "kernel",
      nn.initializers.he_normal(),
      ("conv_in", "channels"),
      (9 * size, self.channels),
    )
    bias = modules.param(
      self, "bias", nn.initializers.zeros_init(), ("channels",), (self.channels,)
    )
    time, frequency = x.shape[1] // 2, x.shape[2] // 2
    x = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    patches = jnp.concatenate(
      [
        x[:, i : i + 2 * time - 1 : 2, j : j + 2 * frequency - 1 : 2]
        for i in range(3)
        for j in range(3)
      ],
      axis=-1,
    )
    return products.matmul(patches, kernel.astype(self.dtype)) + bias.astype(self.dtype)


class ConformerStack(nn.Module):
  """Blocks in sequence, as separate modules or as one scanned module."""

  config: ConformerConfig
  depth: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch steps dim"],
    valid: Bool[Array, "batch steps"],
    deterministic: bool,
  ) -> Float[Array, "batch steps dim"]:
    config = self.config
    if not self.depth:
      return x
    block = recomputed(ConformerBlock, config.remat, config.scan_layers, static_argnums=(3,))
    if config.scan_layers:
      layers = scanned(block, self.depth, (nn.broadcast, nn.broadcast))
      x, _ = layers(config, name="layers")(x, valid, deterministic)
      return x
    for index in range(self.depth):
      x, _ = block(config, name=f"layer_{index}")(x, valid, deterministic)
    return x


class ConformerBlock(nn.Module):
  """Feed-forward with weight 0.5, attention, convolution, feed-forward with weight 0.5, layer norm.

  All parts except the layer norm have residual connections.
  """

  config: ConformerConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch steps dim"],
    valid: Bool[Array, "batch steps"],
    deterministic: bool,
  ) -> tuple[Float[Array, "batch steps dim"], None]:
    config = self.config
    drop = _dropout(config, deterministic)
    x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
    x = x + 0.5 * drop(ConformerFeedForward(config, name="feed_forward_0")(x, deterministic))
    x = x + drop(LocalAttention(config, name="attention")(x, valid, deterministic))
    x = x + drop(ConvolutionModule(config, name="convolution")(x, valid))
    x = x + 0.5 * drop(ConformerFeedForward(config, name="feed_forward_1")(x, deterministic))
    return layer_norm(config.dtype, name="norm")(x), None


class ConformerFeedForward(nn.Module):
  """Layer norm, expanding dense layer, swish, dropout, contracting dense layer."""

  config: ConformerConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch steps dim"], deterministic: bool
  ) -> Float[Array, "batch steps dim"]:
    config = self.config
    x = layer_norm(config.dtype, name="norm")(x)
    x = nn.swish(dense(config.mlp_dim, ("embed", "mlp"), config.dtype, name="expand")(x))
    x = _dropout(config, deterministic)(x)
    return dense(config.dim, ("mlp", "embed"), config.dtype, name="contract")(x)


class LocalAttention(nn.Module):
  """Self-attention of each step to its context, with one learned key per relative position.

  Source: Shaw et al. 2018 (relative keys), here with a key for every offset within the context.
  """

  config: ConformerConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch steps dim"],
    valid: Bool[Array, "batch steps"],
    deterministic: bool,
  ) -> Float[Array, "batch steps dim"]:
    config = self.config
    left, right = config.left_context, config.right_context
    batch, steps, _ = x.shape
    heads, size = config.num_heads, config.dim // config.num_heads
    x = layer_norm(config.dtype, name="norm")(x)

    def project(name: str) -> Float[Array, "batch heads steps size"]:
      y = dense(config.dim, ("embed", "joined_kv"), config.dtype, name=name)(x)
      y = y.reshape(batch, steps, heads, size).transpose(0, 2, 1, 3)
      return nn.with_logical_constraint(y, ("batch", "heads", "length", "kv"))

    query, key, value = project("query") * size**-0.5, project("key"), project("value")
    relative = modules.param(
      self,
      "relative_keys",
      nn.initializers.normal(size**-0.5),
      ("relpos_buckets", "kv"),
      (left + right + 1, size),
    )
    by_offset = jnp.einsum("bhqd,wd->bhqw", query, relative.astype(query.dtype))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) + band_to_square(by_offset, left)
    offset = jnp.arange(steps)[None, :] - jnp.arange(steps)[:, None]
    seen = (offset >= -left) & (offset <= right) & valid[:, None, None, :]
    weights = nn.softmax(jnp.where(seen, scores.astype(jnp.float32), -1e9), axis=-1)
    weights = _dropout(config, deterministic)(weights)
    y = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value)
    y = y.transpose(0, 2, 1, 3).reshape(batch, steps, config.dim)
    return dense(config.dim, ("joined_kv", "embed"), config.dtype, name="out")(y)


def band_to_square(
  band: Float[Array, "batch heads steps width"], left: int
) -> Float[Array, "batch heads steps steps"]:
  """Moves column w of row i to column i + w - left by reshapes, without a gather.

  Columns outside of the square are dropped, and all other elements of the square are 0.
  """
  batch, heads, steps, width = band.shape
  padded = jnp.pad(band, ((0, 0), (0, 0), (0, 0), (0, steps)))
  flat = padded.reshape(batch, heads, -1)[..., : steps * (width + steps - 1)]
  skewed = flat.reshape(batch, heads, steps, width + steps - 1)
  return skewed[..., left : left + steps]


class ConvolutionModule(nn.Module):
  """Layer norm, gated linear unit, depthwise convolution, layer norm, swish, dense layer."""

  config: ConformerConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch steps dim"], valid: Bool[Array, "batch steps"]
  ) -> Float[Array, "batch steps dim"]:
    config = self.config
    x = layer_norm(config.dtype, name="norm")(x)
    x = nn.glu(dense(2 * config.dim, ("embed", "mlp"), config.dtype, name="expand")(x))
    x = x * valid[..., None].astype(x.dtype)
    kernel = modules.param(
      self,
      "depthwise",
      nn.initializers.normal(config.kernel_size**-0.5),
      ("kernel", "mlp"),
      (config.kernel_size, config.dim),
    ).astype(x.dtype)
    # XLA fuses shifted slices into one loop. Unlike a grouped convolution, they also have a fast
    # backward pass.
    reach = config.kernel_size // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    taps = [padded[:, k : k + x.shape[1]] * kernel[k] for k in range(config.kernel_size)]
    x = nn.swish(layer_norm(config.dtype, name="depthwise_norm")(sum(taps[1:], taps[0])))
    return dense(config.dim, ("mlp", "embed"), config.dtype, name="project")(x)


def _dropout(config: ConformerConfig, deterministic: bool) -> nn.Dropout:
  # Independent masks for each step and each pair of steps would take more time than the layers
  # themselves, and three quarters of the compilation time of a block.
  return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic)


def dense(size: int, axes: tuple[str, str], dtype: str, name: str | None = None) -> nn.Dense:
  """Returns a dense layer with the logical axes `axes` of the kernel and `axes[1:]` of the bias."""
  return nn.Dense(
    size,
    dtype=jnp.dtype(dtype),
    kernel_init=nn.with_logical_partitioning(nn.initializers.xavier_uniform(), axes),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[1:]),
    dot_general=products.dot_general,
    name=name,
  )


def layer_norm(dtype: str, name: str) -> nn.LayerNorm:
  """Returns a layer normalisation with the logical axis "embed" and statistics in float32."""
  return nn.LayerNorm(
    dtype=jnp.dtype(dtype),
    scale_init=nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",)),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed",)),
    name=name,
  )


def valid_steps(
  length: Array | None, num_steps: int, batch: int, config: ConformerConfig
) -> Bool[Array, "batch steps"]:
  """Returns a mask that is True for steps that contain audio.

  Args:
    length: number of samples of each clip; None if all steps contain audio.
    num_steps: number of steps per row.
    batch: number of rows.
    config: configuration of the encoder.
  """
  if length is None:
    return jnp.ones((batch, num_steps), bool)
  steps = -(-length // config.hop_length)
  return jnp.arange(num_steps)[None, :] < steps[:, None]


def truncate_params(params: Params, config: ConformerConfig, layer: int) -> Params:
  """Returns the parameters of the subsampling and of the first `layer` blocks.

  Args:
    params: parameters of the encoder as plain arrays, without Flax boxes for axis names.
    config: configuration of the encoder.
    layer: number of blocks to keep, counted through all stacks.
  """
  kept = {"subsampling": params["subsampling"]}
  for index, depth in enumerate(config.truncated(layer).stacks):
    if not depth:
      continue
    stack = params[f"stacks_{index}"]
    if config.scan_layers:
      kept[f"stacks_{index}"] = jax.tree.map(lambda x, n=depth: x[:n], stack)
    else:
      kept[f"stacks_{index}"] = {f"layer_{i}": stack[f"layer_{i}"] for i in range(depth)}
  return kept


def with_first_blocks(params: Params, first: Params) -> Params:
  """Returns `params` with the subsampling and the first blocks replaced by `first`.

  Args:
    params: parameters of the encoder.
    first: a result of `truncate_params`.
  """
  replaced = dict(params) | {"subsampling": first["subsampling"]}
  for name, stack in first.items():
    if name == "subsampling":
      continue
    if stack.keys() == params[name].keys():  # stacked blocks, or all blocks of the stack
      replaced[name] = jax.tree.map(
        lambda whole, start: jnp.concatenate([start, whole[len(start) :]]), params[name], stack
      )
    else:
      replaced[name] = dict(params[name]) | dict(stack)
  return replaced
