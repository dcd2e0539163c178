"""Training of one stage: next-token prediction on its target tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm.stages import Source, StageSpec
from audiolm_jax.lm.tokens import PAD, SEPARATOR
from audiolm_jax.lm.transformer import Transformer, TransformerConfig, stack_layers, unstack_layers
from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import TrainState, new_train_state
from audiolm_jax.training.trainable import Trainable

Batch = Mapping[str, Any]
Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class StageTrainingConfig:
  """Everything a stage's training run needs.

  Attributes:
    spec: what the stage reads and predicts.
    transformer: the model's shape.
    optimizer: the paper states none; this is GSLM's for the same shape of model.
    z_loss: weight of the squared log-partition function, which keeps logits from drifting.
    ema_decay: of the averaged weights that are exported; 0 keeps none.
    microbatches: parts of a batch that go through the model one after another before the update.
  """

  spec: StageSpec
  transformer: TransformerConfig = TransformerConfig()
  optimizer: OptimizerConfig = OptimizerConfig(
    name="adam", learning_rate=5e-4, schedule="rsqrt", warmup_steps=4000, b2=0.98, clip_norm=1.0
  )
  z_loss: float = 0.0
  ema_decay: float = 0.0
  microbatches: int = 1

  def __post_init__(self):
    rows, needed = self.transformer.num_frame_embeddings, self.spec.max_frame_id + 1
    if 0 < rows < needed:
      raise ConfigError(
        f"num_frame_embeddings {rows} is less than the {needed} frame ids of a "
        f"{self.spec.crop_seconds:g} s {self.spec.name} crop; raise it, or set 0 for none"
      )


class StageTrainable(Trainable[TrainState]):
  """A stage as the trainer sees it; a batch is what `stage_features` makes, stacked."""

  def __init__(self, config: StageTrainingConfig):
    self.config = config
    self.component = f"{config.spec.name}_stage"
    self.next_command = (
      "python -m audiolm_jax.export_bundle --bundle=TOKENIZERS --token_store=TOKENS "
      f"--{self.component}_dir={{dir}} --output=BUNDLE"
    )
    self._optimizer = make_optimizer(config.optimizer)

  def init(self, rng: Key[Array, ""], batch: Batch) -> TrainState:
    """A fresh state; parameters carry their logical axes."""
    # No parameter depends on the length; a short one keeps initialisation cheap.
    tokens = jnp.zeros((len(batch["decoder_input_tokens"]), 8), jnp.int32)
    params = self._model(deterministic=True).init(rng, tokens, tokens)["params"]
    return new_train_state(params, self._optimizer, ema_decay=self.config.ema_decay)

  def train_step(
    self, state: TrainState, batch: Batch, rng: Key[Array, ""]
  ) -> tuple[TrainState, Metrics]:
    """One update, skipped if its loss or gradient is not finite."""

    def loss_fn(params, batch, rng):
      model = self._model(deterministic=self.config.transformer.dropout_rate == 0)
      return stage_loss(
        self.config.spec, model, params, batch, z_loss=self.config.z_loss, dropout_rng=rng
      )

    return gradient_step(
      loss_fn,
      state,
      batch,
      rng,
      self._optimizer,
      microbatches=self.config.microbatches,
      ema_decay=self.config.ema_decay,
    )

  def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
    """Metrics of one batch; `weight` is its number of target tokens."""
    model = self._model(deterministic=True)
    return stage_loss(self.config.spec, model, state.averaged_params, batch)[1]

  def amounts(self, batch: Batch) -> dict[str, float]:
    """How many tokens a batch holds, source and target, without padding."""
    return {"tokens": float(np.count_nonzero(batch["decoder_target_tokens"] != PAD))}

  def flops_per_step(self, batch: Batch, step: int) -> float:
    """Of one update; the backward pass of a matrix product is two more of its size."""
    del step  # all alike
    spec, transformer = self.config.spec, self.config.transformer
    rows, length = batch["decoder_target_tokens"].shape
    first = spec.layout.legal_range(0, spec.first_target_quantizer, spec.num_target_quantizers)
    output = 2 * _num_targets(spec, length) * first.size * transformer.embed_dim
    return 3 * rows * (transformer.forward_flops(length) + output)

  def inference_params(self, state: TrainState) -> dict[str, Any]:
    """The parameters to sample with, layers unstacked; the averaged ones if there are any."""
    return unstack_layers(state.averaged_params)

  def component_params(self, component: Any, what: str) -> dict[str, Any]:
    """Returns the parameters of a stage with this configuration; see the base class."""
    configs.check_equal(component.spec, self.config.spec, what)
    configs.check_equal(component.config.shape(), self.config.transformer.shape(), what)
    return component.params

  def with_params(self, state: TrainState, params: Any) -> TrainState:
    """A fresh state that begins where a stage's inference parameters left off."""
    if self.config.transformer.scan_layers:
      params = stack_layers(params)
    return new_train_state(params, self._optimizer, ema_decay=self.config.ema_decay)

  def _model(self, deterministic: bool) -> Transformer:
    c = self.config
    return Transformer(c.transformer, c.spec.layout.vocab_size, deterministic)


def stage_loss(
  spec: StageSpec,
  model: Transformer,
  params: Any,
  batch: Batch,
  *,
  z_loss: float = 0.0,
  dropout_rng: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
  """Mean cross-entropy over the target tokens, each among the ids legal at its position.

  The output layer is evaluated at target positions only and for one codebook each, exactly what a
  sampler sees; for a fine stage that is 18 times less than all ids at all positions.

  Returns:
    The loss in nats per target token (z-loss added), and metrics: `loss` (without z-loss),
    `accuracy`, `weight` (number of target tokens) and, for acoustic targets, `loss_quantizer_<q>`
    by level.
  """
  rngs = None if dropout_rng is None else {"dropout": dropout_rng}
  frame_ids = batch["decoder_frame_ids"] if model.config.num_frame_embeddings else None
  hidden = model.apply(
    {"params": params}, batch["decoder_input_tokens"], frame_ids, method="hidden", rngs=rngs
  )
  per_frame = max(spec.num_target_quantizers, 1)
  hidden, labels, weights = (
    x.reshape(x.shape[0], -1, per_frame, *x.shape[2:])
    for x in _targets(spec, hidden, batch["decoder_target_tokens"], batch["decoder_loss_weights"])
  )
  first = spec.layout.legal_range(0, spec.first_target_quantizer, spec.num_target_quantizers)
  logits = model.apply({"params": params}, hidden, *first, method="codebook_logits")
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
  spec: StageSpec,
  hidden: Float[Array, "batch length embed"],
  tokens: Int[Array, "batch length"],
  weights: Float[Array, "batch length"],
) -> tuple[Array, Array, Array]:
  """The target span of each row, from the token after its separator, of whole frames."""
  length = tokens.shape[1]
  count = _num_targets(spec, length)
  if spec.source is Source.NONE:
    return hidden[:, :count], tokens[:, :count], weights[:, :count]
  # A row without separator is padding; its weights are all 0 wherever it is read.
  start = jnp.argmax(tokens == SEPARATOR, axis=1) + 1
  missing = max(0, spec.max_length - length)
  cut = jax.vmap(lambda x, s: jax.lax.dynamic_slice_in_dim(x, s, count))
  return tuple(
    cut(jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), start)
    for x in (hidden, tokens, weights)
  )


def _num_targets(spec: StageSpec, length: int) -> int:
  """Positions at which the output layer is evaluated in a row of `length` tokens."""
  per_frame = max(spec.num_target_quantizers, 1)
  return min(spec.max_target_length, length) // per_frame * per_frame
