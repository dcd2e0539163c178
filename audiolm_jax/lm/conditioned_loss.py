"""The loss of the conditioned stage: next-token prediction, and deletion for pretraining."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.core.modules import Batch, Params
from audiolm_jax.lm.conditioned import ConditionedConfig, ConditionedSource, ConditionedSpec
from audiolm_jax.lm.tokens import EOS, NUM_RESERVED, PAD

Metrics = dict[str, Float[Array, ""]]


def conditioned_loss(
  spec: ConditionedSpec,
  config: ConditionedConfig,
  params: Params,
  batch: Batch,
  *,
  key: Key[Array, ""] | None = None,
  z_loss: float = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the mean cross-entropy of targets, including end tokens, with label smoothing.

  Args:
    spec: the stage.
    config: configuration of the model.
    params: parameters of the model.
    batch: features of the stage.
    key: random key of deletion and dropout; None for evaluation, which has no dropout and a fixed
      key of deletion.
    z_loss: weight of the squared log-partition function.

  Returns:
    The loss in nats per target, and metrics without smoothing and z-loss: `loss` (nats per target),
    `accuracy`, `weight` (number of targets) and `loss_end` (nats per end token).
  """
  deletion, dropout = jax.random.split(jax.random.key(0) if key is None else key)
  targets = jnp.asarray(batch["decoder_target_tokens"])
  weights = batch["decoder_loss_weights"]
  if spec.source is ConditionedSource.NOTHING:
    source = deleted(spec, targets, deletion, config.deleted_share)
  else:
    source = batch["source_tokens"]
  has_dropout = key is not None and config.transformer.dropout_rate > 0
  logits = modules.apply(
    spec.model(config, deterministic=not has_dropout),
    frozen(config, params),
    source,
    batch["decoder_input_tokens"],
    rngs={"dropout": dropout} if has_dropout else None,
  )
  classes = jnp.where(targets == EOS, spec.target_size, targets - NUM_RESERVED)
  partition = jax.nn.logsumexp(logits, axis=-1)
  # A sum over all classes, because on CPUs the gradient of a lookup takes longer.
  is_class = jnp.arange(logits.shape[-1]) == classes[..., None]
  of_class = jnp.where(is_class, logits, 0.0).sum(-1)
  nats = partition - of_class
  total = jnp.maximum(weights.sum(), 1e-6)
  ends = weights * (targets == EOS)
  metrics = {
    "loss": (weights * nats).sum() / total,
    "accuracy": (weights * (of_class >= logits.max(-1))).sum() / total,
    "weight": weights.sum(),
    "loss_end": (ends * nats).sum() / jnp.maximum(ends.sum(), 1e-6),
  }
  share = config.label_smoothing
  smoothed = (1 - share) * nats + share * (partition - logits.mean(-1))
  loss = (weights * (smoothed + z_loss * jnp.square(partition))).sum() / total
  return loss, metrics


def deleted(
  spec: ConditionedSpec, targets: Int[Array, "batch length"], key: Key[Array, ""], share: float
) -> Int[Array, "batch length"]:
  """Deletes random semantic tokens and returns the other tokens as a source with an end token.

  Args:
    spec: the stage.
    targets: semantic tokens and an end token, as ids of the decoder.
    key: random key.
    share: probability with which each token is deleted.

  Returns:
    Ids of the encoder, padded at the end.
  """
  is_semantic = targets >= NUM_RESERVED
  kept = is_semantic & (jax.random.uniform(key, targets.shape) >= share)
  ids = jnp.where(kept, targets - NUM_RESERVED + spec.first_source_cluster, PAD)
  # A stable sort moves the kept tokens to the left and does not change their order.
  order = jnp.argsort(~kept, axis=1, stable=True)
  moved = jnp.take_along_axis(ids, order, axis=1)
  return jnp.where(jnp.arange(targets.shape[1]) == kept.sum(1, keepdims=True), EOS, moved)


def frozen(config: ConditionedConfig, params: Params) -> Params:
  """Returns the parameters with stopped gradients for parameters that are not trained."""
  count = config.trained_encoder_layers
  if count is None:
    return params

  def stopped(tree: PyTree) -> PyTree:
    return jax.tree.map(jax.lax.stop_gradient, tree)

  def above(stacked: Array) -> Array:
    return jnp.concatenate([stacked[:count], jax.lax.stop_gradient(stacked[count:])])

  lower = {f"layers_{index}" for index in range(count)}
  encoder = {
    name: tree if name in lower
    else jax.tree.map(above, tree) if name == "layers"
    else stopped(tree)
    for name, tree in params["encoder"].items()
  }  # fmt: skip
  trained = {"source_embedding": params["source_embedding"], "encoder": encoder}
  return {name: trained.get(name, stopped(tree)) for name, tree in params.items()}
