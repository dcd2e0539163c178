"""The model of the parallel stage: a bidirectional transformer that predicts hidden codes.

    input of a frame    the sum of: the embeddings of its known codes, a mask embedding for each
                        hidden code, the embedding of its semantic token, and (not for plain heads)
                        a projection of the sum of the codebook vectors of its known codes
    output at level q   W_q h + beta_q (r . c_k - |c_k|^2 / 2) for each code k of the level, where
                        r = P h + P_q h - the sum of the codebook vectors of the coarser codes

Here, h is the output of the last layer, and c_k is the codebook vector of code k. W_q, beta_q, P
and P_q are parameters. Up to a constant, the second term of the output is the log-likelihood of r
under a Gaussian with mean c_k. This term is 0 if a coarser code is unknown, and for plain heads.
All codebook vectors are divided by the standard deviation of the latents, so that the parameters do
not depend on the scale of the codec.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from audiolm_jax.core import modules, products
from audiolm_jax.core.arrays import Array
from audiolm_jax.lm.blocks import (
  AttentionContext,
  Mlp,
  SelfAttention,
  dropout_of,
  layer_stack,
  run_layers,
)
from audiolm_jax.lm.layers import Projection, RMSNorm
from audiolm_jax.lm.parallel import UNKNOWN, Heads, ParallelConfig
from audiolm_jax.lm.stage import CODEBOOKS

# Initial beta of all levels but the first, whose initial beta is 1. With larger values, the initial
# loss is higher than the loss of equal probabilities.
_FINER_BETA = 1 / 7
# Scales of initial kernels, relative to 1 / sqrt(inputs).
_POINT_SCALE = 0.3
_LEVEL_POINT_SCALE = 0.05
_HEAD_SCALE = 0.1


class ParallelModel(nn.Module):
  """Predicts codes from known codes and semantic tokens.

  Attributes:
    config: configuration of the model.
    num_quantizers: number of levels of the codes.
    codebook_size: codes per level.
    num_clusters: size of the semantic vocabulary.
    deterministic: False enables dropout (requires the random stream "dropout").
  """

  config: ParallelConfig
  num_quantizers: int
  codebook_size: int
  num_clusters: int
  deterministic: bool = True

  def setup(self):
    c, config = self.config.transformer, self.config
    levels, size, dim = self.num_quantizers, self.codebook_size, c.dim

    def table(name, scale, shape, axes):
      normal = nn.initializers.normal(scale)
      return modules.param(self, name, normal, axes, shape, jnp.float32)

    self.code_embedding = table(
      "code_embedding", 0.02, (levels, size, dim), ("quantizers", "vocab", "embed")
    )
    self.mask_embedding = table("mask_embedding", 0.02, (levels, dim), ("quantizers", "embed"))
    self.semantic_embedding = table(
      "semantic_embedding", 0.3, (self.num_clusters, dim), ("vocab", "embed")
    )
    self.no_semantic = table("no_semantic", 0.02, (1, dim), (None, "embed"))
    self.head = table(
      "head", _HEAD_SCALE * dim**-0.5, (levels, dim, size), ("quantizers", "embed", "vocab")
    )
    if config.heads is Heads.GEOMETRY:
      latent = config.latent_dim
      # The codebooks of the codec replace these values before training; until then losses are NaN.
      unset, axes = nn.initializers.constant(jnp.nan), ("quantizers", None, None)
      books = (levels, size, latent)
      self.codebooks = modules.param(self, CODEBOOKS, unset, axes, books, jnp.float32)
      self.code_input = Projection((latent, dim), ("kv", "embed"), jnp.dtype(c.dtype))
      self.point = table("point", _POINT_SCALE * dim**-0.5, (dim, latent), ("embed", "kv"))
      self.level_point = table(
        "level_point",
        _LEVEL_POINT_SCALE * dim**-0.5,
        (levels, dim, latent),
        ("quantizers", "embed", "kv"),
      )
      betas = jnp.log(jnp.where(jnp.arange(levels) == 0, 1.0, _FINER_BETA).astype(jnp.float32))
      self.log_beta = modules.param(
        self, "log_beta", lambda *_: betas, ("quantizers",), (levels,), jnp.float32
      )
    self.layers: Any = layer_stack(ParallelBlock, c, config, self.deterministic)
    self.final_norm = RMSNorm(jnp.dtype(c.dtype))
    self.dropout = dropout_of(c, self.deterministic)

  def __call__(
    self,
    codes: Int[Array, "batch frames levels"],
    semantic: Int[Array, "batch frames"],
    valid: Bool[Array, "batch frames"],
  ) -> tuple[Float[Array, "batch _frames size"], ...]:
    """Returns float32 logits of each level, given all known codes."""
    hidden, vectors = self.hidden(codes, semantic, valid), self.vectors(codes)
    return tuple(
      self.level_logits(hidden, vectors, codes, level) for level in range(self.num_quantizers)
    )

  def hidden(
    self,
    codes: Int[Array, "batch frames levels"],
    semantic: Int[Array, "batch frames"],
    valid: Bool[Array, "batch frames"],
  ) -> Float[Array, "batch frames embed"]:
    """Returns the normalised output of the last layer.

    Args:
      codes: known codes, and UNKNOWN for hidden codes.
      semantic: the semantic token of each frame, UNKNOWN for a frame without semantic token.
      valid: False on padding, which does not affect the other frames.
    """
    c = self.config.transformer
    x = self._rows(self.semantic_embedding, "vocab")[jnp.maximum(semantic, 0)]
    x = jnp.where((semantic != UNKNOWN)[..., None], x, self.no_semantic[0].astype(c.dtype))
    for level in range(self.num_quantizers):
      of_level = codes[..., level]
      known = self._rows(self.code_embedding[level], "vocab")[jnp.maximum(of_level, 0)]
      masked = self.mask_embedding[level].astype(c.dtype)
      x = x + jnp.where((of_level != UNKNOWN)[..., None], known, masked)
    if self.config.heads is Heads.GEOMETRY:
      x = x + self.code_input(self.vectors(codes).sum(-2).astype(c.dtype))
    x = nn.with_logical_constraint(self.dropout(x), ("batch", "length", "embed"))
    length = codes.shape[1]
    # One block without causal mask: all queries attend to all keys.
    everywhere = jnp.zeros((1, 1, length, length), jnp.float32)
    context = AttentionContext((everywhere,), jnp.arange(length)[None], valid)
    return self.final_norm(run_layers(self.layers, x, context))

  def vectors(
    self, codes: Int[Array, "batch frames levels"]
  ) -> Float[Array, "batch frames levels latent"]:
    """Returns the scaled codebook vectors of known codes, and zeros for unknown codes.

    For plain heads, the last axis has length 0.
    """
    if self.config.heads is Heads.PLAIN:
      return jnp.zeros((*codes.shape, 0), jnp.float32)
    books = self._vectors_of_codes()
    found = [
      jnp.where((of_level != UNKNOWN)[..., None], books[level][jnp.maximum(of_level, 0)], 0.0)
      for level, of_level in enumerate(jnp.moveaxis(codes, -1, 0))
    ]
    return jnp.stack(found, axis=-2)

  def predicted_point(
    self, hidden: Float[Array, "batch frames embed"]
  ) -> Float[Array, "batch frames latent"]:
    """Returns the predicted sum of the scaled codebook vectors of all levels."""
    return _float32_product(hidden, self.point)

  def level_logits(
    self,
    hidden: Float[Array, "batch frames embed"],
    vectors: Float[Array, "batch frames levels latent"],
    codes: Int[Array, "batch frames levels"],
    level: int | Int[Array, ""],
  ) -> Float[Array, "batch frames size"]:
    """Returns the float32 logits of one level.

    Args:
      hidden: output of `hidden`.
      vectors: result of `vectors(codes)`.
      codes: codes, of which only coarser levels are used. They may contain codes that were UNKNOWN
        in the input of `hidden`.
      level: index of the level; it may be traced.
    """
    logits = _float32_product(hidden, self.head[level])
    if self.config.heads is Heads.GEOMETRY:
      if isinstance(level, int):
        coarser, unknown = vectors[..., :level, :], codes[..., :level] == UNKNOWN
      else:
        is_coarser = jnp.arange(self.num_quantizers) < level
        coarser = jnp.where(is_coarser[:, None], vectors, 0.0)
        unknown = (codes == UNKNOWN) & is_coarser
      point = _float32_product(hidden, self.point + self.level_point[level])
      rest = point - coarser.sum(-2)
      book, beta = self._vectors_of_codes()[level], jnp.exp(self.log_beta[level])
      near = products.matmul(rest * beta, book.T) - beta / 2 * jnp.square(book).sum(-1)
      logits = logits + jnp.where(unknown.any(-1, keepdims=True), 0.0, near)
    return nn.with_logical_constraint(logits, ("batch", "length", "vocab"))

  def nearest_codes(
    self, point: Float[Array, "batch frames latent"]
  ) -> Int[Array, "batch frames levels"]:
    """Returns the codes of a point by residual quantization, from coarse to fine levels.

    The code at each level is nearest to the remainder after the coarser levels.
    """
    codes, rest = [], point
    for book in self._vectors_of_codes():
      distance = jnp.square(book).sum(-1) - 2 * _float32_product(rest, book.T)
      chosen = jnp.argmin(distance, axis=-1).astype(jnp.int32)
      codes.append(chosen)
      rest = rest - book[chosen]
    return jnp.stack(codes, axis=-1)

  def _vectors_of_codes(self) -> Float[Array, "levels size latent"]:
    """Returns the codebooks, divided by the standard deviation of the latents.

    The variance of the latents is estimated from the codebooks: the mean square of their elements,
    summed over levels.
    """
    books = jax.lax.stop_gradient(self.codebooks)
    variance = jnp.square(books).mean(1).sum(0).mean()
    return books * jax.lax.rsqrt(variance)

  def _rows(self, table, axis):
    return nn.with_logical_constraint(table.astype(self.config.transformer.dtype), (axis, None))


class ParallelBlock(nn.Module):
  """One pre-norm layer: attention, depthwise convolution, feed-forward, each added to its input."""

  config: ParallelConfig
  deterministic: bool = True

  def setup(self):
    c = self.config.transformer
    dtype = jnp.dtype(c.dtype)
    self.attention_norm, self.attention = RMSNorm(dtype), SelfAttention(c)
    self.convolution_norm = RMSNorm(dtype)
    # The initial taps are zeros, so that the convolution initially has no effect.
    zeros, taps = nn.initializers.zeros, (self.config.kernel_size, c.dim)
    self.taps = modules.param(self, "taps", zeros, ("kernel", "embed"), taps, jnp.float32)
    self.mlp_norm, self.mlp = RMSNorm(dtype), Mlp(c, self.deterministic)
    self.dropout = dropout_of(c, self.deterministic)

  def __call__(
    self, x: Float[Array, "batch frames embed"], context: AttentionContext
  ) -> tuple[Float[Array, "batch frames embed"], None]:
    """Returns the output, and None as the second value that `nn.scan` requires."""
    added, _ = self.attention.prefill(self.attention_norm(x), context)
    x = x + self.dropout(added)
    x = x + self._convolved(self.convolution_norm(x), context.key_mask)
    x = x + self.dropout(self.mlp(self.mlp_norm(x)))
    return nn.with_logical_constraint(x, ("batch", "length", "embed")), None

  def _convolved(self, x, valid):
    size, length = self.config.kernel_size, x.shape[1]
    # Padding is 0, like the frames outside of the clip.
    x = jnp.where(valid[..., None], x, 0)
    x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))
    taps = self.taps.astype(x.dtype)
    return sum((x[:, i : i + length] * taps[i] for i in range(1, size)), x[:, :length] * taps[0])


def _float32_product(
  x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
  contracted = (((x.ndim - 1,), (0,)), ((), ()))
  return products.dot_general(
    x, kernel.astype(x.dtype), contracted, preferred_element_type=jnp.float32
  )
