"""The entry point that gin files configure: the model, its initial parameters and its data."""

import dataclasses
import os

from audiolm_jax.bundles import load_bundle
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.data import token_store
from audiolm_jax.data.datasets import InMemoryTokens
from audiolm_jax.lm.stage import CODEBOOKS
from audiolm_jax.trainables.registry import load_inference_params
from audiolm_jax.trainables.stage import StageTrainable
from audiolm_jax.trainables.tensorboard import summary_writer
from audiolm_jax.training import trainer
from audiolm_jax.training.trainable import AnyTrainable
from audiolm_jax.training.trainer import Dataset, InitialParams, TrainConfig, TrainResult


def train(
  *,
  model: AnyTrainable,
  config: TrainConfig,
  train_dataset: Dataset,
  eval_dataset: Dataset | None = None,
  initial_bundle: str | os.PathLike[str] | None = None,
  initial_run: str | os.PathLike[str] | None = None,
  tokenizers: str | os.PathLike[str] | None = None,
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
    initial_run: folder of a run of the same component; a new run starts from its parameters, such
      as those of pretraining.
    tokenizers: name or folder of the bundle whose codec made the codes; required for a new run of a
      stage that uses the codebooks, without `initial_bundle`.
    config_text: the resolved gin configuration.

  Raises:
    BundleError: a bundle cannot be read.
    CheckpointError: `initial_run` cannot be read.
    ConfigError: `initial_bundle` or `initial_run` has no such component, or `tokenizers` is
      required or has another codec.
    DataError: the token store that is read is not of `tokenizers`.
    UserError: see `trainer.train`.
  """
  return trainer.train(
    dataclasses.replace(config, config_text=config_text),
    model=model,
    train_dataset=train_dataset,
    eval_dataset=eval_dataset,
    initial_params=_initial_params(model, train_dataset, initial_bundle, initial_run, tokenizers),
    summary_writer=summary_writer,
  )


def bundled_params(model: AnyTrainable, name: str | os.PathLike[str]) -> Params:
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


def params_of_run(model: AnyTrainable, model_dir: str | os.PathLike[str]) -> Params:
  """Returns the parameters of the newest checkpoint of another run.

  Raises:
    CheckpointError: the folder is not that of a run, or has no checkpoint.
    ConfigError: the run trains another component, or one with another configuration.
  """
  component, config, params = load_inference_params(model_dir)
  if component != model.component:
    raise ConfigError(f"{model_dir} is a run of {component!r}, this one trains {model.component!r}")
  return model.run_params(config, params, f"the run {model_dir}")


def codebooks_of(model: StageTrainable, name: str | os.PathLike[str], dataset: Dataset) -> Params:
  """Returns the codebooks of the bundle's codec as parameters of the stage that is trained.

  Args:
    model: the trainable of the stage.
    name: name or folder of the bundle.
    dataset: the training data; a token store is compared with the bundle.

  Raises:
    BundleError: the bundle cannot be read.
    ConfigError: its codec has codes or vectors of another kind than the stage.
    DataError: other tokenizers made the tokens.
  """
  bundle = load_bundle(name, stages=())
  if isinstance(dataset, InMemoryTokens):
    info = token_store.read_info(dataset.folder)
    token_store.check_hash(info, bundle.token_hash, dataset.folder)
  spec, shape = model.config.spec, model.config.transformer
  try:
    return {CODEBOOKS: spec.codebooks(shape, bundle.codec.codebooks)}
  except ConfigError as error:
    raise ConfigError(f"the codec of {bundle.name}: {error}") from error


def _initial_params(
  model: AnyTrainable,
  dataset: Dataset,
  initial_bundle: str | os.PathLike[str] | None,
  initial_run: str | os.PathLike[str] | None,
  tokenizers: str | os.PathLike[str] | None,
) -> InitialParams | None:
  if initial_bundle is not None and initial_run is not None:
    raise ConfigError("INITIAL_BUNDLE and INITIAL_RUN are both set; choose one of them")
  if initial_run is not None:
    return lambda: params_of_run(model, initial_run)
  if initial_bundle is not None:
    return lambda: bundled_params(model, initial_bundle)
  if not isinstance(model, StageTrainable):
    return None
  if not model.config.spec.uses_codebooks(model.config.transformer):
    return None
  if tokenizers is None:
    raise ConfigError(
      f"the {model.component} uses the codec's codebooks; set BUNDLE, the bundle whose tokenizers "
      "made the tokens"
    )
  return lambda: codebooks_of(model, tokenizers, dataset)
