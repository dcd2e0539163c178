"""Training of a detector, which classifies clips as real or synthetic."""

import dataclasses
from typing import cast

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Key

from audiolm_jax.core import configs, modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.detection.classifier import Classifier, ClassifierConfig
from audiolm_jax.detection.detector import Detector
from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.metrics import Metrics
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import TrainState, new_train_state
from audiolm_jax.training.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class DetectorTrainingConfig:
  """Configuration of a detector training run.

  Attributes:
    classifier: the network, with two classes.
    optimizer: the optimizer.
    microbatches: number of parts in which the gradient of a batch is computed.
    ema_decay: decay of the averaged parameters, which are exported; 0 for no average.
  """

  classifier: ClassifierConfig = ClassifierConfig()
  optimizer: OptimizerConfig = OptimizerConfig(
    name="adamw",
    learning_rate=1e-3,
    schedule="cosine",
    warmup_steps=100,
    decay_steps=20_000,
    weight_decay=0.01,
    clip_norm=1.0,
  )
  microbatches: int = 1
  ema_decay: float = 0.99

  def __post_init__(self) -> None:
    if self.classifier.num_classes != 2:
      raise ConfigError(
        f"num_classes is {self.classifier.num_classes}; a detector needs 2, real and synthetic"
      )


class DetectorTrainable(Trainable[TrainState]):
  """The trainable detector.

  A batch has `waveform` float32 [batch, samples], `length` int32 [batch] in samples, and `label`
  int32 [batch], 0 for real and 1 for synthetic.
  """

  component = "detector"
  next_command = (
    "python -m audiolm_jax.export_bundle --bundle=BUNDLE --detector_dir={dir} --output=BUNDLE"
  )

  def __init__(self, config: DetectorTrainingConfig):
    self.config = config
    self.model = Classifier(config.classifier)
    self._optimizer = make_optimizer(config.optimizer)

  def init(self, rng: Key[Array, ""], batch: Batch) -> TrainState:
    """Returns a new state; the parameters are boxed with logical axis names."""
    params = self.model.init(rng, jnp.zeros(batch["waveform"].shape))["params"]
    return new_train_state(params, self._optimizer, ema_decay=self.config.ema_decay)

  def train_step(
    self, state: TrainState, batch: Batch, rng: Key[Array, ""]
  ) -> tuple[TrainState, Metrics]:
    """Updates the parameters, unless the loss or a gradient is not finite."""
    return gradient_step(
      self._loss,
      state,
      batch,
      rng,
      self._optimizer,
      microbatches=self.config.microbatches,
      ema_decay=self.config.ema_decay,
    )

  def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
    """Returns metrics of the averaged parameters; "weight" is the batch size."""
    return self._loss(state.averaged_params, batch, None)[1]

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the seconds of audio in a batch, without padding."""
    rate = self.config.classifier.features.sample_rate
    return {"audio_seconds": float(np.sum(batch["length"])) / rate}

  def flops_per_step(self, batch: ShapedBatch, step: int) -> float:
    """Returns the floating-point operations of an update; see the base class."""
    del step  # all steps are equal
    rows, samples = batch["waveform"].shape
    return 3 * rows * self.config.classifier.forward_flops(samples)

  def inference_params(self, state: TrainState) -> Params:
    """Returns the parameters of the classifier; the averaged parameters if they exist."""
    return nn.unbox(state.averaged_params)

  def component_params(self, component: Detector, what: str) -> Params:
    """Checks the configuration of a detector and returns its parameters; see the base class."""
    configs.check_equal(component.config, self.config.classifier, what)
    return dict(component.params)

  def run_params(self, config: DetectorTrainingConfig, params: Params, what: str) -> Params:
    """Checks the configuration of a detector run and returns its parameters; see the base class."""
    configs.check_equal(config.classifier, self.config.classifier, what)
    return params

  def with_params(self, state: TrainState, params: Params) -> TrainState:
    """Returns a new state with the parameters `params`."""
    return new_train_state(params, self._optimizer, ema_decay=self.config.ema_decay)

  def _loss(
    self, params: Params, batch: Batch, rng: Key[Array, ""] | None
  ) -> tuple[Float[Array, ""], Metrics]:
    del rng  # the loss is deterministic
    labels = batch["label"]
    logits = cast(Array, modules.apply(self.model, params, batch["waveform"]))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)

    return loss, {
      "loss": loss,
      "accuracy": correct.mean(),
      "weight": jnp.asarray(len(labels), jnp.float32),
    }
