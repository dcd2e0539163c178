"""Trains a small conditioned stage until it can read what it was not trained on."""

import dataclasses

from audiolm_jax.data.datasets import InMemoryTokens
from audiolm_jax.lm.conditioned import ConditionedConfig, ConditionedSpec
from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.stage import Stage
from audiolm_jax.trainables.registry import load_inference_params
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training import trainer
from audiolm_jax.training.optimizers import OptimizerConfig

CONFIG = ConditionedConfig(
  TransformerConfig(
    num_layers=1, dim=64, num_heads=2, mlp_dim=128, positions=Positions.ROTARY,
    dropout_rate=0.0,
  ),
  encoder_layers=1,
  label_smoothing=0.0,
)  # fmt: skip


def trained_stage(spec: ConditionedSpec, store: str, model_dir: str, steps: int) -> Stage:
  """Returns a stage that was trained on the clips of a store, from its checkpoint."""
  data = InMemoryTokens(store, spec, batch_size=16)
  adam = OptimizerConfig(name="adam", learning_rate=3e-3)
  config = trainer.TrainConfig(
    model_dir, total_steps=steps, log_period=steps, eval_period=steps, products="float32",
    tensorboard=False,
  )  # fmt: skip
  trainer.train(
    config,
    model=StageTrainable(StageTrainingConfig(spec, CONFIG, adam)),
    train_dataset=data,
    eval_dataset=dataclasses.replace(data, split="valid", num_epochs=1),
  )
  component, found, params = load_inference_params(model_dir)
  assert component == f"{spec.name}_stage"
  return Stage(found.spec, found.transformer, params)
