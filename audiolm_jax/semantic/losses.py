"""The losses of w2v-BERT, and random masks for steps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from audiolm_jax.core.arrays import Array


def span_mask(
  key: PRNGKeyArray, valid: Bool[Array, "batch steps"], probability: float, span: int
) -> Bool[Array, "batch steps"]:
  """Returns a random mask that is True in spans of steps; spans may overlap.

  Args:
    key: random key.
    valid: steps that may be masked. Each row with valid steps gets at least one span.
    probability: probability that a span begins at a valid step.
    span: length of a span in steps.
  """
  start_key, forced_key = jax.random.split(key)
  starts = jax.random.bernoulli(start_key, probability, valid.shape) & valid
  draw = jnp.where(valid, jax.random.uniform(forced_key, valid.shape), -1.0)
  forced = draw == draw.max(axis=1, keepdims=True)
  starts = jnp.where(starts.any(axis=1, keepdims=True), starts, forced & valid)
  padded = jnp.pad(starts, ((0, 0), (span - 1, 0)))
  covered = jnp.stack([padded[:, i : i + valid.shape[1]] for i in range(span)]).any(axis=0)
  return covered & valid


def contrastive_loss(
  context: Float[Array, "batch steps code"],
  targets: Float[Array, "batch steps code"],
  masked: Bool[Array, "batch steps"],
  key: PRNGKeyArray,
  num_negatives: int,
  temperature: float,
  gap: int = 0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the loss of the contrastive task, which is to select the target of each masked step.

  The negatives of a step are targets of other masked steps, drawn at random from its row. Negatives
  may equal the target of the step. Some implementations exclude such negatives, but then a codebook
  with a single entry has the lowest loss.

  Args:
    context: projected outputs of the encoder.
    targets: quantized vectors.
    masked: True for masked steps.
    key: random key for the selection of negatives.
    num_negatives: largest number of negatives per step.
    temperature: divisor of the cosine similarities.
    gap: negatives are more than this number of steps away from the masked step.

  Returns:
    Mean cross-entropy in nats and accuracy over the masked steps.
  """
  similarity = jnp.einsum("btd,bsd->bts", _unit(context), _unit(targets))
  steps = masked.shape[1]
  apart = jnp.abs(jnp.arange(steps)[:, None] - jnp.arange(steps)) > gap
  other = masked[:, None, :] & apart
  if steps - 1 > num_negatives:
    draw = jnp.where(other, jax.random.uniform(key, other.shape), -1.0)
    lowest_kept = jax.lax.top_k(draw, num_negatives)[0][..., -1:]
    other &= draw >= lowest_kept
  own = jnp.eye(steps, dtype=bool)[None]
  logits = jnp.where(other | own, similarity / temperature, -1e9)
  loss = jax.nn.logsumexp(logits, axis=-1) - jnp.diagonal(logits, axis1=1, axis2=2)
  correct = jnp.argmax(logits, axis=-1) == jnp.arange(steps)
  return masked_mean(loss, masked), masked_mean(correct, masked)


def prediction_loss(
  logits: Float[Array, "batch steps groups size"],
  ids: Int[Array, "batch steps groups"],
  mask: Bool[Array, "batch steps"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns cross-entropy in nats per step and group, and accuracy, averaged over the mask."""
  chosen = jax.nn.one_hot(ids, logits.shape[-1])
  loss = -(chosen * nn.log_softmax(logits)).sum(-1).mean(-1)
  correct = (jnp.argmax(logits, axis=-1) == ids).mean(-1)
  return masked_mean(loss, mask), masked_mean(correct, mask)


def diversity_loss(
  probabilities: Float[Array, "batch steps groups size"], mask: Bool[Array, "batch steps"]
) -> Float[Array, ""]:
  """Returns 1 - perplexity / size for the mean distribution over the mask, averaged over groups.

  The loss is 0 if all entries are used equally.
  """
  weight = mask[..., None, None] / jnp.maximum(mask.sum(), 1)
  return 1.0 - jnp.mean(_perplexity((probabilities * weight).sum((0, 1)))) / probabilities.shape[-1]


def id_perplexity(
  ids: Int[Array, "batch steps groups"], size: int, mask: Bool[Array, "batch steps"]
) -> Float[Array, ""]:
  """Returns the perplexity of the ids over the mask, exp(entropy), averaged over groups."""
  counts = (jax.nn.one_hot(ids, size) * mask[..., None, None]).sum((0, 1))
  return jnp.mean(_perplexity(counts / jnp.maximum(counts.sum(-1, keepdims=True), 1.0)))


def _perplexity(distribution: Float[Array, "groups size"]) -> Float[Array, "groups"]:
  return jnp.exp(-jnp.sum(distribution * jnp.log(distribution + 1e-9), axis=-1))


def masked_mean(x: Array, mask: Bool[Array, "..."]) -> Float[Array, ""]:
  """Returns the mean of `x` over the mask; 0 if the mask is empty."""
  return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def _unit(x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-8)
