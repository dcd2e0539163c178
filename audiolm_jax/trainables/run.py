"""The entry point that gin files configure: the model, its initial parameters and its data."""

import dataclasses
import os
from typing import Any

from audiolm_jax.bundles import load_bundle
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.trainables.tensorboard import summary_writer
from audiolm_jax.training import trainer
from audiolm_jax.training.trainable import Trainable
from audiolm_jax.training.trainer import Dataset, TrainConfig, TrainResult


def train(
  *,
  model: Trainable[Any],
  config: TrainConfig,
  train_dataset: Dataset,
  eval_dataset: Dataset | None = None,
  initial_bundle: str | os.PathLike[str] | None = None,
  config_text: str = "",
) -> TrainResult:
  """Trains a model, with TensorBoard files and optionally from the parameters of a bundle.

  Args:
    model: see `trainer.train`.
    config: see `trainer.train`.
    train_dataset: see `trainer.train`.
    eval_dataset: see `trainer.train`.
    initial_bundle: name or folder of a bundle; a new run starts from its component of the same name
      instead of random parameters.
    config_text: the resolved gin configuration.
  Raises:
    BundleError: `initial_bundle` cannot be read.
    ConfigError: `initial_bundle` has no such component.
    UserError: see `trainer.train`.
  """
  return trainer.train(
    dataclasses.replace(config, config_text=config_text),
    model=model,
    train_dataset=train_dataset,
    eval_dataset=eval_dataset,
    initial_params=None
    if initial_bundle is None
    else lambda: bundled_params(model, initial_bundle),
    summary_writer=summary_writer,
  )


def bundled_params(model: Trainable[Any], name: str | os.PathLike[str]) -> Params:
  """Returns the parameters of the bundle's component with the model's name.

  Raises:
    BundleError: the bundle cannot be read.
    ConfigError: the bundle has no such component, or its configuration differs.
  """
  bundle = load_bundle(name)
  component = bundle.component(model.component)
  if component is None:
    raise ConfigError(f"{bundle.name} has no component {model.component!r}; choose another bundle")
  return model.component_params(component, f"the {model.component} of {bundle.name}")
