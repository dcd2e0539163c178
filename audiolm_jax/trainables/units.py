"""Trains a unit encoder: it classifies the speech sound of each frame, independently of the voice.

The classes are clusters of the frames of one canonical voice that reads all texts of the corpus. A
frame of another voice has the class of the aligned frame of the canonical voice; see
`trainables/unit_labels.py`.
"""

import dataclasses
from collections.abc import Hashable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from audiolm_jax.core import configs, modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.data.frame_labels import NO_LABEL
from audiolm_jax.semantic.augment import AugmentConfig, augmented_log_mel
from audiolm_jax.semantic.conformer import dense
from audiolm_jax.semantic.features import normalised_log_mel, pad_waveform, power_spectrum
from audiolm_jax.semantic.losses import prediction_loss, span_mask
from audiolm_jax.semantic.unit_encoder import UnitEncoder, UnitEncoderConfig, UnitTokenizer
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
    mask_probability: probability that a masked span starts at a frame; 0 for no masking.
    mask_span: length of a masked span in frames.
    augment: perturbations of the voice in training; None for no perturbation.
    ema_decay: decay of the averaged parameters, which are exported; 0 for no average.
    optimizer: the optimizer.
  """

  encoder: UnitEncoderConfig = UnitEncoderConfig()
  num_labels: int = 200
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
    if not 0 <= self.mask_probability < 1 or self.mask_span < 1:
      raise ConfigError(
        f"mask_probability {self.mask_probability} must be in [0, 1), and mask_span "
        f"{self.mask_span} at least 1 frame"
      )


class UnitClassifier(nn.Module):
  """The encoder with a linear classification head."""

  config: UnitTrainingConfig

  def setup(self) -> None:
    self.encoder = UnitEncoder(self.config.encoder)
    self.head = dense(self.config.num_labels, ("embed", "vocab"), "float32")

  def __call__(self, log_mel: Array, inside: Array) -> Float[Array, "batch frames labels"]:
    """Returns the logits of each frame; see `UnitEncoder` for the arguments."""
    return self.head(self.encoder(log_mel, inside))


class UnitTrainable(Trainable[TrainState]):
  """The trainable unit encoder.

  A batch has `waveform` float32 [batch, samples], `length` int32 [batch] in samples, and
  `frame_label` int32 [batch, frames], which is `NO_LABEL` for frames without a label.
  """

  component = "units"
  next_command = (
    "python -m audiolm_jax.fit_kmeans --encoder_dir={dir} --audio_dir=RECORDINGS --output=KMEANS"
  )

  def __init__(self, config: UnitTrainingConfig):
    self.config = config
    self.model = UnitClassifier(config)
    self.optimizer = make_optimizer(config.optimizer)

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
    """Returns the parameters of the encoder of a unit tokenizer; see the base class."""
    if not isinstance(component, UnitTokenizer):
      raise ConfigError(f"{what} has no unit encoder; choose another bundle")
    configs.check_equal(component.config.encoder, self.config.encoder, what)
    return {"encoder": component.params["encoder"]}

  def run_params(self, config: UnitTrainingConfig, params: Params, what: str) -> Params:
    """Returns the parameters of the encoder of another run; see the base class.

    The parameters of the head are not included, because the classes of the other run may be
    different clusters.
    """
    configs.check_equal(config.encoder, self.config.encoder, what)
    return {"encoder": params["encoder"]}

  def with_params(self, state: TrainState, params: Params) -> TrainState:
    """Returns a new state with the encoder in `params` and the head in `state`."""
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
    head = 2.0 * frames * encoder.dim * self.config.num_labels
    front_end = frames * encoder.features.flops_per_frame
    return rows * (3 * (encoder.flops(frames) + head) + front_end)

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
    logits = modules.apply(self.model, params, log_mel, inside)
    labels: Int[Array, "batch frames"] = jnp.asarray(batch["frame_label"])
    known = labels != NO_LABEL
    # The labels are ids with one group per frame.
    loss, accuracy = prediction_loss(logits[:, :, None], labels[..., None], known)
    return loss, {
      "loss": loss,
      "accuracy": accuracy,
      "weight": known.sum().astype(jnp.float32),
    }
