"""The loss of an autoregressive stage: next-token prediction on its target tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Batch, Params
from audiolm_jax.lm.stages import AutoregressiveSpec, Source
from audiolm_jax.lm.tokens import SEPARATOR
from audiolm_jax.lm.transformer import Transformer

Metrics = dict[str, Float[Array, ""]]


def stage_loss(
  spec: AutoregressiveSpec,
  model: Transformer,
  params: Params,
  batch: Batch,
  *,
  z_loss: float = 0.0,
  dropout_key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the mean cross-entropy of target tokens over the legal ids of their positions.

  As in sampling, the output layer is evaluated only at target positions, and at each position only
  for one codebook. For the paper's fine stage, this reduces the number of logits by a factor of 18.

  Args:
    spec: the stage.
    model: the transformer of the stage.
    params: parameters of the transformer.
    batch: features of `stages.stage_features`.
    z_loss: weight of the squared log-partition function.
    dropout_key: key of dropout; None disables it.

  Returns:
    The loss in nats per target token (with z-loss), and metrics: `loss` (without z-loss),
    `accuracy`, `weight` (number of target tokens) and, for acoustic targets, `loss_quantizer_<q>`
    for each level q.
  """
  rngs = None if dropout_key is None else {"dropout": dropout_key}
  frame_ids = batch["decoder_frame_ids"] if model.config.num_frame_embeddings else None
  hidden = modules.apply(
    model, params, batch["decoder_input_tokens"], frame_ids, method="hidden", rngs=rngs
  )
  per_frame = max(spec.num_target_quantizers, 1)
  labels, weights = map(
    jnp.asarray, (batch["decoder_target_tokens"], batch["decoder_loss_weights"])
  )
  hidden, labels, weights = (
    x.reshape(x.shape[0], -1, per_frame, *x.shape[2:])
    for x in _targets(spec, hidden, labels, weights)
  )
  first = spec.layout.legal_range(0, spec.first_target_quantizer, spec.num_target_quantizers)
  logits = modules.apply(model, params, hidden, *first, method="codebook_logits")
  labels = labels - (first.start + first.size * jnp.arange(per_frame))
  labels = jnp.clip(labels, 0, first.size - 1)

  log_partition = jax.nn.logsumexp(logits, axis=-1)
  nats = log_partition - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  total = jnp.maximum(weights.sum(), 1e-6)
  loss = (weights * nats).sum() / total
  metrics = {
    "loss": loss,
    "accuracy": (weights * (jnp.argmax(logits, axis=-1) == labels)).sum() / total,
    "weight": weights.sum(),
  }
  if not spec.predicts_semantic:
    by_level = (weights * nats).sum((0, 1)) / jnp.maximum(weights.sum((0, 1)), 1e-6)
    for i in range(per_frame):
      metrics[f"loss_quantizer_{spec.first_target_quantizer + i}"] = by_level[i]
  if z_loss:
    loss = loss + z_loss * (weights * jnp.square(log_partition)).sum() / total
  return loss, metrics


def _targets(
  spec: AutoregressiveSpec,
  hidden: Float[Array, "batch length embed"],
  tokens: Int[Array, "batch length"],
  weights: Float[Array, "batch length"],
) -> tuple[Array, Array, Array]:
  """Returns `hidden`, `tokens` and `weights` at the target positions of each row.

  The targets of a row begin after its separator, or at position 0 for a stage without source. They
  are cut to whole frames.
  """
  length = tokens.shape[1]
  count = spec.num_targets(length)
  if spec.source is Source.NONE:
    return hidden[:, :count], tokens[:, :count], weights[:, :count]
  # A row without separator is padding; all its weights are 0.
  start = jnp.argmax(tokens == SEPARATOR, axis=1) + 1
  missing = max(0, spec.max_length - length)
  cut = jax.vmap(lambda x, s: jax.lax.dynamic_slice_in_dim(x, s, count))

  def targets(x: Array) -> Array:
    return cut(jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), start)

  return targets(hidden), targets(tokens), targets(weights)
