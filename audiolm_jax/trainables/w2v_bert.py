"""w2v-BERT: contrastive learning makes the codebook whose ids masked prediction predicts.

Source: Chung et al. 2021 (w2v-BERT); Baevski et al. 2020 (wav2vec 2.0) for the contrastive part.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.augment import AugmentConfig, augmented_log_mel
from audiolm_jax.semantic.conformer import (
  FRAMES_PER_STEP,
  ConformerConfig,
  ConformerEncoder,
  dense,
  valid_steps,
)
from audiolm_jax.semantic.features import normalised_log_mel, pad_waveform, power_spectrum
from audiolm_jax.semantic.losses import (
  contrastive_loss,
  diversity_loss,
  id_perplexity,
  prediction_loss,
  span_mask,
)
from audiolm_jax.semantic.quantizer import GumbelQuantizer
from audiolm_jax.training.batches import Batch
from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import TrainState, new_train_state
from audiolm_jax.training.trainable import Trainable

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class W2vBertConfig:
  """Defaults: the XL model as in the paper.

  Attributes:
    encoder: its first stack is the contrastive module, its second the masked-prediction module.
    mask_probability: chance of a step to begin a masked span of `mask_span` steps (40 ms each).
    negative_gap: negatives are more than this many steps away. 0 in the paper; with more,
      neighbours may share a code, so that codes can last as long as sounds do.
    gumbel_decay: factor on the Gumbel temperature per step, from `gumbel_start` to `gumbel_end`.
    unmasked_weight: weight of both tasks at the steps that were not masked; 0 in the paper, of use
      with `augment`, where the codes are those of another hearing.
    augment: when set, each utterance is heard twice, perturbed, and either hearing has to predict
      the codes of the other; None in the paper.
    microbatches: parts of a batch that go through the model one after another before the update;
      each counts by its masked steps, and the diversity loss is that within a part.
    collapse_fraction: a codebook perplexity below this share of its size is reported as collapse.
  """

  encoder: ConformerConfig = ConformerConfig()
  num_groups: int = 1
  codebook_size: int = 1024
  code_dim: int = 1024
  mask_probability: float = 0.065
  mask_span: int = 10
  num_negatives: int = 100
  negative_gap: int = 0
  contrastive_temperature: float = 0.1
  contrastive_weight: float = 1.0
  diversity_weight: float = 0.1
  masked_weight: float = 1.0
  unmasked_weight: float = 0.0
  gumbel_start: float = 2.0
  gumbel_end: float = 0.5
  gumbel_decay: float = 0.99999
  augment: AugmentConfig | None = None
  collapse_fraction: float = 0.05
  ema_decay: float = 0.0
  microbatches: int = 1
  optimizer: OptimizerConfig = OptimizerConfig(
    name="adamw",
    learning_rate=2e-3,
    schedule="rsqrt",
    warmup_steps=25_000,
    weight_decay=0.01,
    b2=0.98,
    clip_norm=1.0,
  )

  def __post_init__(self) -> None:
    if len(self.encoder.stacks) != 2:
      raise ConfigError(
        f"w2v-BERT has a contrastive and a masked-prediction stack; encoder.stacks is "
        f"{self.encoder.stacks}"
      )
    if self.code_dim % self.num_groups:
      raise ConfigError(
        f"code_dim {self.code_dim} is not a multiple of num_groups {self.num_groups}"
      )
    if not 0 < self.mask_probability < 1 or self.mask_span < 1:
      raise ConfigError("mask_probability must lie in (0, 1) and mask_span be at least 1 step")

  @property
  def default_layer(self) -> int:
    """The layer tokens are made of unless told otherwise; AudioLM's for XL, 7 of 12 masked ones."""
    contrastive, masked = self.encoder.stacks
    return contrastive + max(1, round(masked * 7 / 12))


class W2vBertOutput(NamedTuple):
  """What the losses are made of; see `W2vBert`."""

  context: Float[Array, "batch steps code"]
  targets: Float[Array, "batch steps code"]
  ids: Int[Array, "batch steps groups"]
  probabilities: Float[Array, "batch steps groups size"]
  logits: Float[Array, "batch steps groups size"]


class W2vBert(nn.Module):
  """The encoder with what only pre-training needs: mask vector, quantizer, heads."""

  config: W2vBertConfig

  def setup(self) -> None:
    config = self.config
    self.encoder = ConformerEncoder(config.encoder)
    self.mask_vector = self.param(
      "mask_vector",
      nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",)),
      (config.encoder.dim,),
    )
    self.quantizer = GumbelQuantizer(config.num_groups, config.codebook_size, config.code_dim)
    self.context_head = dense(config.code_dim, ("embed", "latent"), "float32")
    self.prediction_head = dense(
      config.num_groups * config.codebook_size, ("embed", "vocab"), "float32"
    )

  def __call__(
    self,
    features: Float[Array, "views_batch frames mels"],
    valid: Bool[Array, "views_batch steps"],
    masked: Bool[Array, "views_batch steps"],
    *,
    gumbel_temperature: Float[Array, ""] | float | None = None,
    deterministic: bool = True,
    num_views: int = 1,
  ) -> W2vBertOutput:
    """Contexts and logits of the masked sequence, targets of the unmasked one.

    Args:
      features: log-mel of all views, the first view of every utterance, then the second.
      masked: steps whose latent vector the encoder does not see.
      gumbel_temperature: draws the codes (rng "gumbel"); None takes the best ones.
      num_views: 2: the targets of a view are the codes of the other view of the utterance.
    """
    config = self.config
    latents = self.encoder.subsample(features, valid)
    heard = jnp.roll(latents, latents.shape[0] // num_views, axis=0) if num_views > 1 else latents
    quantized = self.quantizer(heard, valid, gumbel_temperature)
    x = jnp.where(masked[..., None], self.mask_vector.astype(latents.dtype), latents)
    context = self.encoder.stack(0, x, valid, deterministic)
    hidden = self.encoder.stack(1, context, valid, deterministic)
    logits = self.prediction_head(hidden).reshape(
      *hidden.shape[:2], config.num_groups, config.codebook_size
    )
    return W2vBertOutput(
      self.context_head(context), quantized.vectors, quantized.ids, quantized.probabilities, logits
    )


class SemanticTrainable(Trainable[TrainState]):
  """w2v-BERT as the trainer sees it.

  Batches: `waveform` float32 [batch, samples], `length` int32 [batch] in samples.
  """

  component = "semantic"
  next_command = (
    "python -m audiolm_jax.fit_kmeans --encoder_dir={dir} --audio_dir=RECORDINGS --output=KMEANS"
  )

  def __init__(self, config: W2vBertConfig):
    self.config = config
    self.model = W2vBert(config)
    self.optimizer = make_optimizer(config.optimizer)

  def init(self, rng: Key[Array, ""], batch: Batch) -> TrainState:
    """The state before the first step; parameters carry their logical axis names."""
    features, valid = self._views(None, batch)
    params = self.model.init(rng, features, valid, jnp.zeros_like(valid))["params"]
    return new_train_state(params, self.optimizer, ema_decay=self.config.ema_decay)

  def train_step(
    self, state: TrainState, batch: Batch, rng: Key[Array, ""]
  ) -> tuple[TrainState, Metrics]:
    """One update; without one (metric `skipped`) if the loss or a gradient is not finite."""
    config = self.config
    temperature = jnp.maximum(
      config.gumbel_end,
      config.gumbel_start * config.gumbel_decay ** state.step.astype(jnp.float32),
    )
    state, metrics = gradient_step(
      lambda params, batch, rng: self._loss(params, batch, rng, temperature),
      state,
      batch,
      rng,
      self.optimizer,
      microbatches=config.microbatches,
      ema_decay=config.ema_decay,
    )
    return state, metrics | {"gumbel_temperature": temperature}

  def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
    """Losses with the averaged parameters, fixed masks and no noise; `weight` is masked steps."""
    _, metrics = self._loss(state.averaged_params, batch, jax.random.key(0), None)
    return metrics

  def amounts(self, batch: Batch) -> dict[str, float]:
    """How many seconds of audio a batch holds, without padding."""
    seconds = np.sum(batch["length"]) / self.config.encoder.features.sample_rate
    return {"audio_seconds": float(seconds)}

  def flops_per_step(self, batch: Batch, step: int) -> float:
    """Of one update: front end forwards; encoder, quantizer, heads and similarities both ways.

    The perturbations of `augment` are left out.
    """
    del step  # all alike
    config, encoder = self.config, self.config.encoder
    rows, samples = batch["waveform"].shape
    steps = encoder.num_steps(samples)
    scores_and_logits = 2 * encoder.dim * config.num_groups * config.codebook_size
    codes = (config.codebook_size + config.code_dim + encoder.dim) * config.code_dim
    similarities = steps * config.code_dim
    views = 2 if config.augment is not None else 1
    learned = encoder.forward_flops(steps) + 2 * steps * (scores_and_logits + codes + similarities)
    heard = FRAMES_PER_STEP * steps * encoder.features.flops_per_frame
    return rows * (3 * views * learned + heard)

  def warnings(self, metrics: Mapping[str, float]) -> list[str]:
    """A sentence when the codebook that gives the targets has collapsed."""
    if metrics["codebook_collapsed"] < 0.5:
      return []
    return [
      f"the codebook has collapsed (perplexity {metrics['codebook_perplexity']:.1f} of "
      f"{self.config.codebook_size} entries); raise diversity_weight or lower the learning rate"
    ]

  def inference_params(self, state: TrainState) -> dict[str, Any]:
    """Plain arrays of the whole model; `["encoder"]` is what a tokenizer needs."""
    return nn.unbox(state.averaged_params)

  def _views(
    self, key: Key[Array, ""] | None, batch: Batch
  ) -> tuple[Float[Array, "views frames mels"], Bool[Array, "views steps"]]:
    """Features of one clean view without a key or augmentation, of two perturbed ones with both."""
    encoder, augment = self.config.encoder, self.config.augment
    waveform, length = batch["waveform"], batch["length"]
    inside = jnp.arange(waveform.shape[1]) < length[:, None]
    padded = pad_waveform(waveform * inside, encoder.features)
    power = power_spectrum(padded, encoder.features)
    valid = valid_steps(length, power.shape[1] // 4, power.shape[0], encoder)
    if key is None or augment is None:
      return normalised_log_mel(power, encoder.features), valid
    views = [augmented_log_mel(k, power, encoder.features, augment) for k in jax.random.split(key)]
    return jnp.concatenate(views), jnp.concatenate([valid, valid])

  def _loss(
    self, params: Any, batch: Batch, rng: Key[Array, ""], temperature: Float[Array, ""] | None
  ) -> tuple[Float[Array, ""], Metrics]:
    """Trains with a temperature, evaluates without one."""
    config = self.config
    training = temperature is not None
    keys = dict(
      zip(
        ("augment", "mask", "negatives", "gumbel", "dropout"),
        jax.random.split(rng, 5),
        strict=True,
      )
    )
    features, valid = self._views(keys["augment"] if training else None, batch)
    features = nn.with_logical_constraint(features, ("batch", "length", None))
    masked = span_mask(keys["mask"], valid, config.mask_probability, config.mask_span)
    output = self.model.apply(
      {"params": params},
      features,
      valid,
      masked,
      gumbel_temperature=temperature,
      deterministic=not training,
      num_views=2 if training and config.augment is not None else 1,
      rngs={"gumbel": keys["gumbel"], "dropout": keys["dropout"]},
    )
    own = self._objectives(output, masked, keys["negatives"])
    diversity = diversity_loss(output.probabilities, valid)
    loss = own.total + config.diversity_weight * diversity
    if config.unmasked_weight:
      seen = self._objectives(output, valid & ~masked, keys["negatives"])
      loss += config.unmasked_weight * seen.total
    perplexity = id_perplexity(output.ids, config.codebook_size, valid)
    # A batch with fewer steps than entries cannot use them all.
    reachable = jnp.minimum(config.codebook_size, valid.sum())
    return loss, {
      "loss": loss,
      "contrastive_loss": own.contrastive,
      "contrastive_accuracy": own.contrastive_accuracy,
      "masked_prediction_loss": own.prediction,
      "masked_prediction_accuracy": own.prediction_accuracy,
      "diversity_loss": diversity,
      "codebook_perplexity": perplexity,
      "codebook_collapsed": (perplexity < config.collapse_fraction * reachable).astype(jnp.float32),
      "weight": masked.sum().astype(jnp.float32),
    }

  def _objectives(
    self, output: W2vBertOutput, where: Bool[Array, "batch steps"], key: Key[Array, ""]
  ) -> "_Objectives":
    """Both tasks at the steps `where`."""
    config = self.config
    contrastive, contrastive_accuracy = contrastive_loss(
      output.context,
      output.targets,
      where,
      key,
      config.num_negatives,
      config.contrastive_temperature,
      config.negative_gap,
    )
    prediction, prediction_accuracy = prediction_loss(output.logits, output.ids, where)
    total = config.contrastive_weight * contrastive + config.masked_weight * prediction
    return _Objectives(total, contrastive, contrastive_accuracy, prediction, prediction_accuracy)


class _Objectives(NamedTuple):
  total: Float[Array, ""]
  contrastive: Float[Array, ""]
  contrastive_accuracy: Float[Array, ""]
  prediction: Float[Array, ""]
  prediction_accuracy: Float[Array, ""]
