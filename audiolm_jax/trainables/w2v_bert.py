"""Training of w2v-BERT: contrastive learning of a codebook, and masked prediction of its ids.

Source: Chung et al. 2021 (w2v-BERT); Baevski et al. 2020 (wav2vec 2.0) for the contrastive part.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from audiolm_jax.core import configs, modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.keys import new_key
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.semantic.augment import AugmentConfig, augmented_log_mel
from audiolm_jax.semantic.conformer import (
  FRAMES_PER_STEP,
  ConformerConfig,
  ConformerEncoder,
  dense,
  valid_steps,
  with_first_blocks,
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
from audiolm_jax.semantic.tokenizer import SemanticTokenizer
from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.metrics import Metrics
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import TrainState, new_train_state
from audiolm_jax.training.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class W2vBertConfig:
  """Configuration of a w2v-BERT training run; the defaults are the XL model of the paper.

  Attributes:
    encoder: shape of the encoder. The first stack is the contrastive module, the second stack is
      the masked-prediction module.
    num_groups: number of codebooks of the quantizer.
    codebook_size: entries per codebook.
    code_dim: dimension of a code vector, the concatenated entries of all groups.
    mask_probability: probability that a masked span starts at a step.
    mask_span: length of a masked span in steps of 40 ms.
    num_negatives: largest number of negatives per masked step in the contrastive loss.
    negative_gap: negatives are more than this number of steps from the masked step. The paper uses
      0. With a larger gap, neighbouring steps may share a code, so that a code can last as long as
      a speech sound.
    contrastive_temperature: temperature of the contrastive loss.
    contrastive_weight: weight of the contrastive loss.
    diversity_weight: weight of the diversity loss.
    masked_weight: weight of the masked-prediction loss.
    unmasked_weight: weight of the contrastive and prediction losses over unmasked steps. The paper
      uses 0. Larger values are useful with `augment`, because the target codes come from a
      different view.
    gumbel_start: initial Gumbel temperature.
    gumbel_end: lowest Gumbel temperature.
    gumbel_decay: factor by which the Gumbel temperature is multiplied per step.
    augment: perturbations that make two views of each utterance; each view predicts the codes of
      the other view. None, as in the paper, for no perturbation.
    collapse_fraction: a codebook has collapsed if its perplexity in a batch is below this share of
      its size, or of the number of steps if there are fewer steps than entries.
    ema_decay: decay of the averaged parameters, which are exported; 0 for no average.
    microbatches: number of parts in which the gradient of a batch is computed. The weight of a part
      is its number of masked steps. The diversity loss is computed for each part separately.
    optimizer: the optimizer.
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
        f"encoder.stacks is {self.encoder.stacks}; w2v-BERT needs two stacks, contrastive and "
        "masked prediction"
      )
    if self.code_dim % self.num_groups:
      raise ConfigError(
        f"code_dim {self.code_dim} is not a multiple of num_groups {self.num_groups}"
      )
    if not 0 < self.mask_probability < 1 or self.mask_span < 1:
      raise ConfigError(
        f"mask_probability {self.mask_probability} must be between 0 and 1, and mask_span "
        f"{self.mask_span} at least 1 step"
      )

  @property
  def default_layer(self) -> int:
    """The default encoder block for tokens, counted from 1 through both stacks.

    The block is at 7/12 of the masked-prediction stack, as in AudioLM with w2v-BERT XL.
    """
    contrastive, masked = self.encoder.stacks
    return contrastive + max(1, round(masked * 7 / 12))


class W2vBertOutput(NamedTuple):
  """The outputs of `W2vBert`, from which the losses are computed.

  Attributes:
    context: prediction of the code vector of each step, for the contrastive loss.
    targets: code vector of each step.
    ids: index of the code of each step and group.
    probabilities: probability of each code, for the diversity loss.
    logits: prediction of `ids` for masked prediction.
  """

  context: Float[Array, "batch steps code"]
  targets: Float[Array, "batch steps code"]
  ids: Int[Array, "batch steps groups"]
  probabilities: Float[Array, "batch steps groups size"]
  logits: Float[Array, "batch steps groups size"]


class W2vBert(nn.Module):
  """The encoder with the modules for training: mask vector, quantizer and two linear heads."""

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
    """Returns predictions from the masked sequence, and targets from the unmasked sequence.

    Args:
      features: log-mel features of all views: the first view of each utterance, then the second
        view of each utterance.
      valid: True for steps that are not padding.
      masked: True for steps whose latent vector is replaced by the mask vector.
      gumbel_temperature: temperature at which codes are sampled with the rng "gumbel"; None to
        select the codes with the highest scores.
      deterministic: True to disable dropout.
      num_views: 1 or 2, number of views per utterance. With 2 views, the targets of a view are the
        codes of the other view.
    """
    config = self.config
    latents = self.encoder.subsample(features, valid)
    sources = jnp.roll(latents, latents.shape[0] // num_views, axis=0) if num_views > 1 else latents
    quantized = self.quantizer(sources, valid, gumbel_temperature)
    x = jnp.where(masked[..., None], jnp.asarray(self.mask_vector, latents.dtype), latents)
    context = self.encoder.stack(0, x, valid, deterministic)
    hidden = self.encoder.stack(1, context, valid, deterministic)
    logits = self.prediction_head(hidden).reshape(
      *hidden.shape[:2], config.num_groups, config.codebook_size
    )
    return W2vBertOutput(
      self.context_head(context), quantized.vectors, quantized.ids, quantized.probabilities, logits
    )


class SemanticTrainable(Trainable[TrainState]):
  """The trainable w2v-BERT.

  A batch has `waveform` float32 [batch, samples] and `length` int32 [batch] in samples.
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
    """Returns a new state; the parameters are boxed with logical axis names."""
    features, valid = self._views(None, batch)
    params = self.model.init(rng, features, valid, jnp.zeros_like(valid))["params"]
    return new_train_state(params, self.optimizer, ema_decay=self.config.ema_decay)

  def train_step(
    self, state: TrainState, batch: Batch, rng: Key[Array, ""]
  ) -> tuple[TrainState, Metrics]:
    """Updates the parameters, unless the loss or a gradient is not finite."""
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
    """Returns metrics of the averaged parameters, with the same random masks in each call.

    The metric "weight" is the number of masked steps.
    """
    _, metrics = self._loss(state.averaged_params, batch, new_key(0), None)
    return metrics

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the seconds of audio in a batch, without padding."""
    seconds = np.sum(batch["length"]) / self.config.encoder.features.sample_rate
    return {"audio_seconds": float(seconds)}

  def flops_per_step(self, batch: ShapedBatch, step: int) -> float:
    """Returns the floating-point operations of an update; see the base class.

    The number includes the log-mel front end (without a backward pass), the encoder, the quantizer,
    the heads and the similarities of the contrastive loss. It does not include the perturbations.
    """
    del step  # all steps are equal
    config, encoder = self.config, self.config.encoder
    rows, samples = batch["waveform"].shape
    steps = encoder.num_steps(samples)
    scores_and_logits = 2 * encoder.dim * config.num_groups * config.codebook_size
    codes = (config.codebook_size + config.code_dim + encoder.dim) * config.code_dim
    similarities = steps * config.code_dim
    views = 2 if config.augment is not None else 1
    learned = encoder.forward_flops(steps) + 2 * steps * (scores_and_logits + codes + similarities)
    front_end = FRAMES_PER_STEP * steps * encoder.features.flops_per_frame
    return rows * (3 * views * learned + front_end)

  def warnings(self, metrics: Mapping[str, float]) -> list[str]:
    """Returns a warning if the codebook of the quantizer has collapsed."""
    if metrics["codebook_collapsed"] < 0.5:
      return []
    return [
      f"the codebook has collapsed (perplexity {metrics['codebook_perplexity']:.1f} of "
      f"{self.config.codebook_size} entries); raise diversity_weight or lower the learning rate"
    ]

  def component_params(self, component: object, what: str) -> Params:
    """Returns the parameters of the encoder of a tokenizer; see the base class.

    The encoder of a tokenizer contains only the blocks up to the layer of its features.
    """
    if not isinstance(component, SemanticTokenizer):
      raise ConfigError(f"{what} has no w2v-BERT encoder; choose another bundle")
    configs.check_equal(component.config.encoder, self.config.encoder, what)
    return {"encoder": component.params["encoder"]}

  def run_params(self, config: W2vBertConfig, params: Params, what: str) -> Params:
    """Returns the parameters of a run with equal encoder and quantizer; see the base class."""
    shape = ("encoder", "num_groups", "codebook_size", "code_dim")
    wanted = dataclasses.replace(config, **{name: getattr(self.config, name) for name in shape})
    configs.check_equal(config, wanted, what)
    return params

  def with_params(self, state: TrainState, params: Params) -> TrainState:
    """Returns a new state from `params`; parameters that `params` lacks are taken from `state`."""
    encoder = with_first_blocks(state.params["encoder"], params["encoder"])
    return new_train_state(
      dict(state.params) | dict(params) | {"encoder": encoder},
      self.optimizer,
      ema_decay=self.config.ema_decay,
    )

  def inference_params(self, state: TrainState) -> Params:
    """Returns the parameters of the whole model; a tokenizer needs only "encoder"."""
    return nn.unbox(state.averaged_params)

  def _views(
    self, key: Key[Array, ""] | None, batch: Batch
  ) -> tuple[Float[Array, "views frames mels"], Bool[Array, "views steps"]]:
    """Returns the log-mel features of the views, and for each step whether it is not padding.

    There are two perturbed views per utterance, or one unperturbed view if `key` or
    `config.augment` is None. All first views precede all second views.
    """
    encoder, augment = self.config.encoder, self.config.augment
    waveform, length = map(jnp.asarray, (batch["waveform"], batch["length"]))
    inside = jnp.arange(waveform.shape[1]) < length[:, None]
    padded = pad_waveform(waveform * inside, encoder.features)
    power = power_spectrum(padded, encoder.features)
    valid = valid_steps(length, power.shape[1] // 4, power.shape[0], encoder)
    if key is None or augment is None:
      return normalised_log_mel(power, encoder.features), valid
    views = [augmented_log_mel(k, power, encoder.features, augment) for k in jax.random.split(key)]
    return jnp.concatenate(views), jnp.concatenate([valid, valid])

  def _loss(
    self, params: Params, batch: Batch, rng: Key[Array, ""], temperature: Float[Array, ""] | None
  ) -> tuple[Float[Array, ""], Metrics]:
    """Returns the loss and metrics.

    Args:
      params: the parameters.
      batch: see the class.
      rng: key of perturbations, masks, negatives, Gumbel noise and dropout.
      temperature: Gumbel temperature; None in evaluation, without perturbations, Gumbel noise and
        dropout.
    """
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
    output = cast(
      W2vBertOutput,
      modules.apply(
        self.model,
        params,
        features,
        valid,
        masked,
        gumbel_temperature=temperature,
        deterministic=not training,
        num_views=2 if training and config.augment is not None else 1,
        rngs={"gumbel": keys["gumbel"], "dropout": keys["dropout"]},
      ),
    )
    own = self._objectives(output, masked, keys["negatives"])
    diversity = diversity_loss(output.probabilities, valid)
    loss = own.total + config.diversity_weight * diversity
    if config.unmasked_weight:
      unmasked = self._objectives(output, valid & ~masked, keys["negatives"])
      loss += config.unmasked_weight * unmasked.total
    perplexity = id_perplexity(output.ids, config.codebook_size, valid)
    # A batch with fewer steps than codebook entries cannot use all entries.
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
    """Returns the contrastive and prediction losses over the steps in the mask `where`."""
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
  """The contrastive and prediction losses with their accuracies; `total` is their weighted sum."""

  total: Float[Array, ""]
  contrastive: Float[Array, ""]
  contrastive_accuracy: Float[Array, ""]
  prediction: Float[Array, ""]
  prediction_accuracy: Float[Array, ""]
