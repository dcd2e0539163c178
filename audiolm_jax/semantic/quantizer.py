"""The learned codebook whose entries are the targets of w2v-BERT."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.semantic.conformer import dense

_SCORE_SCALE = 4.0


class Quantized(NamedTuple):
  """The quantization of a sequence by scores, the logits of the entries in each group.

  Attributes:
    vectors: projections of the selected entries; with Gumbel noise, the scores get straight-through
      gradients.
    ids: index of the entry with the highest score in each group, without Gumbel noise.
    probabilities: softmax of the scores without Gumbel noise, for the diversity loss.
  """

  vectors: Float[Array, "batch steps dim"]
  ids: Int[Array, "batch steps groups"]
  probabilities: Float[Array, "batch steps groups size"]


class GumbelQuantizer(nn.Module):
  """Product quantizer that selects one entry per group, in training by Gumbel-softmax.

  Attributes:
    num_groups: number of groups in the codebook.
    codebook_size: entries per group.
    dim: dimension of the quantized vectors.

  Source: wav2vec 2.0, section 2 (straight-through Gumbel-softmax over groups of entries).
  """

  num_groups: int
  codebook_size: int
  dim: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch steps features"],
    valid: Bool[Array, "batch steps"],
    temperature: Float[Array, ""] | float | None,
  ) -> Quantized:
    """Quantizes features by Gumbel-softmax, or by the highest scores if `temperature` is None.

    The features of each row are normalised to zero mean and unit variance over valid steps, so that
    entries do not encode level, channel and voice. The quantizer is used only in training; tokens
    do not depend on it.

    Args:
      x: features.
      valid: False on padding.
      temperature: temperature of the Gumbel-softmax, which requires the random stream "gumbel";
        None for no Gumbel noise.
    """
    groups, size = self.num_groups, self.codebook_size
    x = _normalised_over_time(x.astype(jnp.float32), valid)
    # The initial scores are much larger than the Gumbel noise. The first codes therefore come from
    # a random projection of the features, and the encoder can learn to predict them from the first
    # training step.
    scores = nn.Dense(
      groups * size,
      kernel_init=nn.with_logical_partitioning(
        nn.initializers.normal(_SCORE_SCALE * x.shape[-1] ** -0.5), ("embed", "codebook")
      ),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), ("codebook",)),
      name="scores",
    )(x)
    scores = scores.reshape(*x.shape[:2], groups, size)
    codebook = modules.param(
      self,
      "codebook",
      nn.initializers.normal(1.0),
      (None, "codebook", "latent"),
      (groups, size, self.dim // groups),
    )
    ids = jnp.argmax(scores, axis=-1)
    if temperature is None:
      chosen = jax.nn.one_hot(ids, size)
    else:
      noisy = (scores + jax.random.gumbel(self.make_rng("gumbel"), scores.shape)) / temperature
      soft = nn.softmax(noisy, axis=-1)
      hard = jax.nn.one_hot(jnp.argmax(noisy, axis=-1), size)
      chosen = soft + jax.lax.stop_gradient(hard - soft)
    vectors = jnp.einsum("btgv,gvd->btgd", chosen, codebook).reshape(*x.shape[:2], -1)
    vectors = dense(self.dim, ("latent", "embed"), "float32", name="project")(vectors)
    return Quantized(vectors, ids, nn.softmax(scores, axis=-1))


def _normalised_over_time(
  x: Float[Array, "batch steps features"], valid: Bool[Array, "batch steps"]
) -> Float[Array, "batch steps features"]:
  weight = valid[..., None] / jnp.maximum(valid.sum(1), 1)[:, None, None]
  x = x - (x * weight).sum(1, keepdims=True)
  return x * jax.lax.rsqrt((x * x * weight).sum(1, keepdims=True) + 1e-3)
