"""The loss of the parallel stage: random masks, and the prediction of hidden codes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Batch, Params
from audiolm_jax.lm.parallel import (
  UNKNOWN,
  Heads,
  LossTargets,
  MaskingConfig,
  ParallelConfig,
  ParallelSpec,
)

Metrics = dict[str, Float[Array, ""]]


class Masks(NamedTuple):
  """The codes and semantic tokens that are hidden in one batch.

  Attributes:
    hidden: True on hidden codes.
    targets: True on hidden codes that contribute to the loss.
    without_semantic: True for rows whose semantic tokens are hidden.
  """

  hidden: Bool[Array, "batch frames levels"]
  targets: Bool[Array, "batch frames levels"]
  without_semantic: Bool[Array, "batch"]


def draw_masks(
  config: MaskingConfig,
  key: Key[Array, ""],
  valid: Bool[Array, "batch frames"],
  given: Bool[Array, "batch frames"],
  levels: int,
) -> Masks:
  """Returns random masks; frames of a prompt and padding are never hidden.

  Args:
    config: settings of masking.
    key: random key.
    valid: False on padding.
    given: True on frames of the prompt of a pair. A row without such frames has either a prompt of
      random length or no prompt.
    levels: number of levels of the codes.
  """
  rows, frames = valid.shape
  keys = jax.random.split(key, 7)

  def uniform(index: int, *shape: int) -> Float[Array, "rows ..."]:
    return jax.random.uniform(keys[index], (rows, *shape))

  share = jnp.cos(uniform(0, 1, 1) * (jnp.pi / 2))
  entries = uniform(1, frames, levels) < share
  level = jnp.arange(levels)
  finest = jnp.cumsum(jnp.asarray(config.level_shares(levels)))[:-1]
  chosen = (uniform(2, 1, 1) >= finest).sum(-1, keepdims=True)
  by_level = ((level == chosen) & entries) | (level > chosen)
  is_one_level = uniform(3, 1, 1) < config.one_level_share
  has_prompt = uniform(4) < config.prompt_share
  lengths = valid.sum(1)
  prompt = jnp.floor(uniform(5) * (config.longest_prompt * lengths + 1))
  prompt = jnp.where(has_prompt, prompt, 0.0)
  begins = jnp.arange(frames) < prompt[:, None]
  free = valid & ~jnp.where(given.any(1, keepdims=True), given, begins)
  hidden = jnp.where(is_one_level, by_level, entries) & free[..., None]
  targets = hidden
  if config.targets is LossTargets.LEVEL:
    targets = hidden & (~is_one_level | (level == chosen))
  return Masks(hidden, targets, uniform(6) < config.semantic_dropout)


def parallel_loss(
  spec: ParallelSpec,
  config: ParallelConfig,
  params: Params,
  batch: Batch,
  *,
  key: Key[Array, ""] | None = None,
  z_loss: float = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the cross-entropy of masked codes, as a weighted mean over levels.

  For geometry heads, the loss also contains the squared error of the point that
  `ParallelModel.predicted_point` returns. The output layer of a level reads all codes of coarser
  levels in the same frame, including hidden codes.

  Args:
    spec: the stage.
    config: configuration of the model.
    params: parameters of the model.
    batch: features of the stage.
    key: random key of masks and dropout; None for evaluation, which has a fixed key of masks, all
      semantic tokens and no dropout.
    z_loss: weight of the squared log-partition function.

  Returns:
    The loss, and metrics: `loss` (cross-entropy in nats per code, weighted mean over levels),
    `accuracy`, `weight` (number of hidden codes that contribute to the loss), `loss_quantizer_<q>`
    for each level (NaN for a level without such codes) and, for geometry heads, `point_error` (mean
    squared error of the predicted point on frames with hidden codes, divided by the variance of the
    latents).
  """
  masks_key, dropout_key = jax.random.split(jax.random.key(0) if key is None else key)
  codes, valid = jnp.asarray(batch["codes"]), jnp.asarray(batch["weights"]) > 0
  given = jnp.asarray(batch["is_prompt"]) > 0
  levels = spec.num_quantizers
  masks = draw_masks(config.masking, masks_key, valid, given, levels)
  semantic = batch["semantic"]
  if key is not None:
    semantic = jnp.where(masks.without_semantic[:, None], UNKNOWN, semantic)
  has_dropout = key is not None and config.transformer.dropout_rate > 0
  model = spec.model(config, deterministic=not has_dropout)

  def apply(method: str, *arguments: object) -> Any:
    rngs = {"dropout": dropout_key} if has_dropout and method == "hidden" else None
    return model.apply({"params": params}, *arguments, method=method, rngs=rngs)

  shown = jnp.where(masks.hidden, UNKNOWN, codes)
  hidden, vectors = apply("hidden", shown, semantic, valid), apply("vectors", codes)
  by_level: list[tuple[Array, Array, Array, Array]] = []
  for level in range(levels):
    logits = apply("level_logits", hidden, vectors, codes, level)
    by_level.append(_of_level(logits, codes[..., level], masks.targets[..., level]))
  nats, hits, squares, counts = (jnp.stack(values) for values in zip(*by_level, strict=True))

  weights = jnp.array([*config.level_weights, *[1.0] * levels][:levels]) * (counts > 0)
  total, per_level = jnp.maximum(weights.sum(), 1e-6), jnp.maximum(counts, 1.0)
  loss = (weights * nats / per_level).sum() / total
  metrics = {
    "loss": loss,
    "accuracy": hits.sum() / jnp.maximum(counts.sum(), 1.0),
    "weight": counts.sum(),
  }
  for level in range(levels):
    mean = nats[level] / per_level[level]
    metrics[f"loss_quantizer_{level}"] = jnp.where(counts[level] > 0, mean, jnp.nan)
  if z_loss:
    loss = loss + z_loss * (weights * squares / per_level).sum() / total
  if config.heads is Heads.GEOMETRY:
    point, asked = apply("predicted_point", hidden), masks.hidden.any(-1)
    error = jnp.square(point - vectors.sum(-2)).mean(-1)
    error = (error * asked).sum() / jnp.maximum(asked.sum(), 1)
    metrics["point_error"] = error
    loss = loss + config.point_weight * error
  return loss, metrics


def _of_level(
  logits: Float[Array, "batch frames size"],
  codes: Int[Array, "batch frames"],
  targets: Bool[Array, "batch frames"],
) -> tuple[Array, Array, Array, Array]:
  """Returns sums over the targets: nats, correct predictions, squared log-partitions and count."""
  partition = jax.nn.logsumexp(logits, axis=-1)
  # A sum over all codes, because on CPUs the gradient of a lookup takes longer.
  is_code = jnp.arange(logits.shape[-1]) == codes[..., None]
  of_code = jnp.where(is_code, logits, 0.0).sum(-1)
  weights = targets.astype(jnp.float32)
  hits = of_code >= logits.max(-1)
  nats = (weights * (partition - of_code)).sum()
  return nats, (weights * hits).sum(), (weights * jnp.square(partition)).sum(), weights.sum()
