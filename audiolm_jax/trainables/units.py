"""Trains a unit encoder: it classifies the speech sound of each frame, independently of the voice.

The classes are clusters of the frames of one canonical voice that reads all texts of the corpus. A
frame of another voice has the class of the aligned frame of the canonical voice; see
`trainables/unit_labels.py`. Training can be repeated in rounds. In the last round, the classes are
clusters of the features of the previous encoder. A quantizer then follows the new encoder, which
also learns to recognise the characters of the texts.
"""

import dataclasses
from collections.abc import Hashable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int, Key

from audiolm_jax.core import configs, modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.data.frame_labels import NO_LABEL
from audiolm_jax.semantic.augment import AugmentConfig, augmented_log_mel
from audiolm_jax.semantic.features import normalised_log_mel, pad_waveform, power_spectrum
from audiolm_jax.semantic.losses import id_perplexity, masked_mean, prediction_loss, span_mask
from audiolm_jax.semantic.unit_classifier import (
  CODEBOOK,
  Predictions,
  QuantizedSteps,
  UnitClassifier,
)
from audiolm_jax.semantic.unit_encoder import UnitEncoderConfig, UnitTokenizer
from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.metrics import Metrics
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import TrainState, new_train_state
from audiolm_jax.training.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class UnitTrainingConfig:
  """Configuration of a training run of a unit encoder.

  Attributes:
    encoder: shape of the encoder.
    num_labels: number of classes.
    num_units: number of entries of the quantizer between encoder and heads; 0 for no quantizer. The
      codebook starts from the centroids of the initial bundle, so start the run from a bundle with
      this number of clusters.
    commitment_weight: weight of the squared distance of the features to their entries.
    codebook_rate: share by which an update moves an entry towards the mean of its features.
    characters: the characters that the encoder learns to recognise; empty for none.
    character_weight: weight of the loss of the characters, in nats per character.
    mask_probability: probability that a masked span starts at a frame; 0 for no masking.
    mask_span: length of a masked span in frames.
    augment: perturbations of the voice in training; None for no perturbation.
    ema_decay: decay of the averaged parameters, which are exported; 0 for no average.
    optimizer: the optimizer.
  """

  encoder: UnitEncoderConfig = UnitEncoderConfig()
  num_labels: int = 200
  num_units: int = 0
  commitment_weight: float = 0.25
  codebook_rate: float = 0.03
  characters: str = ""
  character_weight: float = 1.0
  mask_probability: float = 0.01
  mask_span: int = 6
  augment: AugmentConfig | None = AugmentConfig()
  ema_decay: float = 0.998
  optimizer: OptimizerConfig = OptimizerConfig(
    name="adamw",
    learning_rate=1.5e-3,
    schedule="cosine",
    warmup_steps=200,
    decay_steps=3000,
    weight_decay=0.02,
    b2=0.98,
    clip_norm=1.0,
  )

  def __post_init__(self) -> None:
    if self.num_labels < 2:
      raise ConfigError(f"num_labels {self.num_labels} must be at least 2")
    if self.num_units < 0 or self.num_units == 1:
      raise ConfigError(f"num_units {self.num_units} must be at least 2, or 0 for no quantizer")
    if len(set(self.characters)) < len(self.characters):
      raise ConfigError(f"characters {self.characters!r} has a character twice")
    if not 0 <= self.mask_probability < 1 or self.mask_span < 1:
      raise ConfigError(
        f"mask_probability {self.mask_probability} must be in [0, 1), and mask_span "
        f"{self.mask_span} at least 1 frame"
      )


class UnitTrainable(Trainable[TrainState]):
  """The trainable unit encoder.

  A batch has `waveform` float32 [batch, samples], `length` int32 [batch] in samples, and
  `frame_label` int32 [batch, frames], which is `NO_LABEL` for frames without a label. If the
  configuration has characters, a batch also has `text` int32 [batch, characters]: the index of each
  character of the text, and `NO_LABEL` after the end of the text. Rows without text are possible.
  """

  component = "units"
  next_command = (
    "python -m audiolm_jax.fit_kmeans --encoder_dir={dir} --audio_dir=RECORDINGS --output=KMEANS"
  )

  def __init__(self, config: UnitTrainingConfig):
    self.config = config
    self.model = UnitClassifier(
      config.encoder, config.num_labels, config.num_units, len(config.characters)
    )
    self.optimizer = make_optimizer(config.optimizer)
    if config.num_units:
      # The gradient of an entry is its distance to the mean of its steps.
      optimizers: dict[Hashable, optax.GradientTransformation] = {
        "model": self.optimizer,
        CODEBOOK: optax.sgd(config.codebook_rate),
      }
      self.optimizer = optax.partition(optimizers, _optimizer_of)

  def init(self, rng: Key[Array, ""], batch: Batch) -> TrainState:
    """Returns a new state; the parameters are boxed with logical axis names."""
    log_mel, inside = self._features(None, batch)
    params = self.model.init(rng, log_mel, inside)["params"]
    return new_train_state(params, self.optimizer, ema_decay=self.config.ema_decay)

  def train_step(
    self, state: TrainState, batch: Batch, rng: Key[Array, ""], *parts: Hashable
  ) -> tuple[TrainState, Metrics]:
    """Updates the parameters, unless the loss or a gradient is not finite."""
    return gradient_step(
      self._loss, state, batch, rng, self.optimizer, ema_decay=self.config.ema_decay
    )

  def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
    """Returns metrics of the averaged parameters; "weight" is the number of labelled frames."""
    _, metrics = self._loss(state.averaged_params, batch, None)
    return metrics

  def component_params(self, component: object, what: str) -> Params:
    """Returns the encoder and, for a quantizer, the codebook; see the base class."""
    if not isinstance(component, UnitTokenizer):
      raise ConfigError(f"{what} has no unit encoder; choose another bundle")
    configs.check_equal(component.config.encoder, self.config.encoder, what)
    if not self.config.num_units:
      return {"encoder": component.params["encoder"]}
    if component.config.num_clusters != self.config.num_units:
      raise ConfigError(
        f"{what} has {component.config.num_clusters} units and num_units is "
        f"{self.config.num_units}; set the same number (NUM_UNITS) or choose another bundle"
      )
    centroids, mean, scale = (component.params[name] for name in ("centroids", "mean", "scale"))
    # The quantizer compares features without whitening.
    codebook = np.asarray(centroids) * np.asarray(scale) + np.asarray(mean)
    return {"encoder": component.params["encoder"], CODEBOOK: jnp.asarray(codebook)}

  def run_params(self, config: UnitTrainingConfig, params: Params, what: str) -> Params:
    """Returns the encoder of another run; see the base class.

    The heads are not included, because the classes of the other run may be different clusters. If
    the other run has a quantizer of the same size, its parameters are included.
    """
    configs.check_equal(config.encoder, self.config.encoder, what)
    heads = {"head", "character_head"}
    if self.config.num_units and config.num_units == self.config.num_units:
      return {name: value for name, value in params.items() if name not in heads}
    return {"encoder": params["encoder"]}

  def with_params(self, state: TrainState, params: Params) -> TrainState:
    """Returns a new state with `params`, and with the parameters of `state` that `params` lacks."""
    return new_train_state(
      dict(state.params) | dict(params), self.optimizer, ema_decay=self.config.ema_decay
    )

  def inference_params(self, state: TrainState) -> Params:
    """Returns the parameters {"encoder", "head"}; a tokenizer needs only "encoder"."""
    return nn.unbox(state.averaged_params)

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the seconds of audio in a batch, without padding."""
    seconds = np.sum(batch["length"]) / self.config.encoder.features.sample_rate
    return {"audio_seconds": float(seconds)}

  def flops_per_step(self, batch: ShapedBatch, step: int) -> float:
    """Returns the floating-point operations of an update; see the base class.

    The log-mel front end has no backward pass.
    """
    del step  # all steps are equal
    encoder = self.config.encoder
    rows, samples = batch["waveform"].shape
    frames = -(-samples // encoder.features.hop_length)
    front_end = frames * encoder.features.flops_per_frame
    return rows * (3 * self.model.flops(frames) + front_end)

  def _features(
    self, key: Key[Array, ""] | None, batch: Batch
  ) -> tuple[Float[Array, "batch frames mels"], Array]:
    """Returns log-mel features, and for each frame whether it is inside of the clip.

    Args:
      key: key of the perturbations; None for no perturbation.
      batch: see the class.
    """
    features = self.config.encoder.features
    waveform, length = map(jnp.asarray, (batch["waveform"], batch["length"]))
    samples_inside = jnp.arange(waveform.shape[1]) < length[:, None]
    power = power_spectrum(pad_waveform(waveform * samples_inside, features, 1), features)
    inside = jnp.arange(power.shape[1]) < -(-length[:, None] // features.hop_length)
    if key is None or self.config.augment is None:
      return normalised_log_mel(power, features), inside
    return augmented_log_mel(key, power, features, self.config.augment), inside

  def _loss(
    self, params: Params, batch: Batch, rng: Key[Array, ""] | None
  ) -> tuple[Float[Array, ""], Metrics]:
    """Returns the loss and metrics; if `rng` is None, nothing is perturbed or masked."""
    config = self.config
    augment_key, mask_key = (None, None) if rng is None else jax.random.split(rng)
    log_mel, inside = self._features(augment_key, batch)
    log_mel = nn.with_logical_constraint(log_mel, ("batch", "length", None))
    if mask_key is not None and config.mask_probability:
      masked = span_mask(mask_key, inside, config.mask_probability, config.mask_span)
      log_mel = jnp.where(masked[..., None], 0.0, log_mel)
    predictions: Predictions = modules.apply(self.model, params, log_mel, inside)
    labels: Int[Array, "batch frames"] = jnp.asarray(batch["frame_label"])
    known = labels != NO_LABEL
    # The labels are the ids of one group.
    loss, accuracy = prediction_loss(predictions.labels[:, :, None], labels[..., None], known)
    metrics = {
      "label_loss": loss,
      "accuracy": accuracy,
      "weight": known.sum().astype(jnp.float32),
    }
    valid = inside[:, :: config.encoder.frames_per_step]
    if predictions.characters is not None:
      metrics["character_loss"] = _character_loss(
        predictions.characters, jnp.asarray(batch["text"]), valid
      )
      loss += config.character_weight * metrics["character_loss"]
    if predictions.quantized is not None:
      steps, vectors, units = predictions.quantized
      error = jnp.mean(jnp.square(steps - jax.lax.stop_gradient(vectors)), axis=-1)
      metrics["quantization_error"] = masked_mean(error, valid)
      metrics["perplexity"] = id_perplexity(units[..., None], config.num_units, valid)
      loss += config.commitment_weight * metrics["quantization_error"]
      distances = _distances_to_means(predictions.quantized, valid, config.num_units)
      loss += distances - jax.lax.stop_gradient(distances)  # only for its gradient
    return loss, {"loss": loss, **metrics}


def _optimizer_of(params: Params) -> dict[str, str]:
  """Returns the name of the optimizer of each part of the parameters."""
  return {name: CODEBOOK if name == CODEBOOK else "model" for name in params}


def _distances_to_means(
  quantized: QuantizedSteps, valid: Bool[Array, "batch steps"], num_units: int
) -> Float[Array, ""]:
  """Returns a value whose gradient at each used entry is the entry minus the mean of its steps."""
  uses = (jax.nn.one_hot(quantized.units, num_units) * valid[..., None]).sum((0, 1))
  squares = jnp.square(jax.lax.stop_gradient(quantized.steps) - quantized.vectors).sum(-1)
  return 0.5 * jnp.sum(squares * valid / jnp.maximum(uses, 1)[quantized.units])


def _character_loss(
  logits: Float[Array, "batch steps symbols"],
  text: Int[Array, "batch characters"],
  valid: Bool[Array, "batch steps"],
) -> Float[Array, ""]:
  """Returns the CTC loss in nats per character, averaged over clips.

  Clips without text and clips that are too short for their text are not included. A text needs one
  step per character, and another step between two equal characters.

  Args:
    logits: logits of the blank and of the characters.
    text: index of each character, and `NO_LABEL` after the end of the text.
    valid: True for the steps of each clip.

  Source: Graves et al., Connectionist temporal classification (2006).
  """
  given = text != NO_LABEL
  length = given.sum(1)
  # A blank must separate two equal characters.
  repeats = ((text[:, 1:] == text[:, :-1]) & given[:, 1:]).sum(1)
  usable = (length > 0) & (length + repeats <= valid.sum(1))
  symbols = jnp.where(given, text + 1, 0)
  nats = optax.ctc_loss(logits, 1.0 - valid, symbols, 1.0 - given)
  return masked_mean(nats / jnp.maximum(length, 1), usable)
