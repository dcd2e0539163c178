"""Training of a stage; the losses of each kind of stage are defined by its spec."""

import dataclasses

from jaxtyping import Key

from audiolm_jax.core import configs
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stage import ModelConfig, Stage, StageSpec
from audiolm_jax.sampling import registry
from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.metrics import Metrics
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import TrainState, new_train_state
from audiolm_jax.training.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class StageTrainingConfig(configs.DependentTypes):
  """Configuration of a training run of a stage.

  Attributes:
    spec: kind of the stage, with the streams that the stage reads and predicts.
    transformer: shape of the model, an instance of `spec.config_class()`.
    optimizer: the optimizer. The AudioLM paper does not specify it; the default is the optimizer of
      GSLM (generative spoken language modeling) for the same model shape.
    z_loss: weight of the z-loss, the squared log-partition function, which keeps logits small.
    ema_decay: decay of the averaged parameters, which are exported; 0 for no average.
    microbatches: number of parts in which the gradient of a batch is computed.
  """

  spec: StageSpec
  transformer: ModelConfig = TransformerConfig()
  optimizer: OptimizerConfig = OptimizerConfig(
    name="adam", learning_rate=5e-4, schedule="rsqrt", warmup_steps=4000, b2=0.98, clip_norm=1.0
  )
  z_loss: float = 0.0
  ema_decay: float = 0.0
  microbatches: int = 1

  def __post_init__(self):
    self.spec.check_config(self.transformer)
    if self.spec.is_frozen(self.transformer) and self.optimizer.weight_decay:
      raise ConfigError(
        f"weight_decay {self.optimizer.weight_decay} would change the frozen layers of the "
        f"{self.spec.name} stage; set it to 0"
      )

  @classmethod
  def field_types(cls, values: Json) -> dict[str, type]:
    """Returns the types of the fields that depend on the kind of the stage; see the base class."""
    spec = registry.spec_class(values["spec"])
    return {"spec": spec, "transformer": spec.config_class()}


class StageTrainable(Trainable[TrainState]):
  """The trainable stage.

  A batch has the arrays of `spec.example`, stacked along a leading batch axis.
  """

  def __init__(self, config: StageTrainingConfig):
    self.config = config
    self.component = f"{config.spec.name}_stage"
    self.next_command = (
      "python -m audiolm_jax.export_bundle --bundle=TOKENIZERS --token_store=TOKENS "
      f"--stage_dir={config.spec.name}={{dir}} --output=BUNDLE"
    )
    self._optimizer = make_optimizer(config.optimizer)

  def init(self, rng: Key[Array, ""], batch: Batch) -> TrainState:
    """Returns a new state; the parameters are boxed with logical axis names."""
    params = self.config.spec.init(self.config.transformer, rng, batch)
    return new_train_state(params, self._optimizer, ema_decay=self.config.ema_decay)

  def train_step(
    self, state: TrainState, batch: Batch, rng: Key[Array, ""]
  ) -> tuple[TrainState, Metrics]:
    """Updates the parameters, unless the loss or a gradient is not finite."""
    c = self.config

    def loss_fn(params, batch, rng):
      return c.spec.loss(c.transformer, params, batch, key=rng, z_loss=c.z_loss)

    return gradient_step(
      loss_fn,
      state,
      batch,
      rng,
      self._optimizer,
      microbatches=c.microbatches,
      ema_decay=c.ema_decay,
    )

  def eval_step(self, state: TrainState, batch: Batch) -> Metrics:
    """Returns metrics of the averaged parameters; see `StageSpec.loss`."""
    c = self.config
    return c.spec.loss(c.transformer, state.averaged_params, batch)[1]

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the amount of data in a batch; see `StageSpec.amounts`."""
    return self.config.spec.amounts(batch)

  def flops_per_step(self, batch: ShapedBatch, step: int) -> float:
    """Returns the floating-point operations of one update."""
    del step  # all steps cost the same
    return self.config.spec.flops_per_step(self.config.transformer, batch)

  def inference_params(self, state: TrainState) -> Params:
    """Returns the parameters for sampling; the averaged parameters if they exist."""
    return self.config.spec.inference_params(state.averaged_params)

  def component_params(self, component: Stage, what: str) -> Params:
    """Checks the configuration of a stage and returns its parameters; see the base class."""
    spec = self.config.spec
    if not spec.accepts_params_of(component.spec):
      configs.check_equal(component.spec, spec, what)
    found, wanted = (spec.shape_of(c) for c in (component.config, self.config.transformer))
    configs.check_equal(found, wanted, what)
    return component.params

  def run_params(self, config: StageTrainingConfig, params: Params, what: str) -> Params:
    """Checks the configuration of a run and returns its parameters; see the base class."""
    return self.component_params(Stage(config.spec, config.transformer, params), what)

  def with_params(self, state: TrainState, params: Params) -> TrainState:
    """Returns a new state with the inference parameters of a stage.

    Args:
      state: a new state; provides the parameters that `params` lacks.
      params: all parameters of a stage, or only its codebooks.
    """
    params = self.config.spec.training_params(self.config.transformer, params)
    return new_train_state(
      dict(state.params) | dict(params), self._optimizer, ema_decay=self.config.ema_decay
    )
