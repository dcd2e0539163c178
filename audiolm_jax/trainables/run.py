"""The function `train`, whose arguments are configured by gin files."""

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
  """Trains a model and writes TensorBoard files; optionally starts from existing parameters.

  Args:
    model: see `trainer.train`.
    config: see `trainer.train`.
    train_dataset: see `trainer.train`.
    eval_dataset: see `trainer.train`.
    initial_bundle: name or folder of a bundle. A new run starts from the parameters of the
      component `model.component` of the bundle.
    initial_run: folder of another run of `model.component`, such as pretraining. A new run starts
      from the parameters of this run. Cannot be combined with `initial_bundle`.
    tokenizers: name or folder of the bundle whose codec made the codes. Required for a stage whose
      parameters contain the codebooks of the codec, without `initial_bundle` and `initial_run`.
    config_text: the resolved gin configuration.

  Raises:
    BundleError: a bundle cannot be read.
    CheckpointError: `initial_run` cannot be read.
    ConfigError: `initial_bundle` or `initial_run` lacks `model.component` or has a different
      configuration; both arguments are set; or `tokenizers` is missing or has unsuitable codebooks.
    DataError: the token store was made by other tokenizers than `tokenizers`.
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
  """Returns the parameters of the component `model.component` of a bundle.

  Args:
    model: the trainable.
    name: name or folder of the bundle.

  Raises:
    BundleError: the bundle cannot be read.
    ConfigError: the bundle has no such component, or the component has a different configuration.
  """
  bundle = load_bundle(name)
  component = bundle.component(model.component)
  if component is None:
    raise ConfigError(f"{bundle.name} has no component {model.component!r}; choose another bundle")
  return model.component_params(component, f"the {model.component} of {bundle.name}")


def params_of_run(model: AnyTrainable, model_dir: str | os.PathLike[str]) -> Params:
  """Returns the parameters of the newest readable checkpoint of another run.

  Args:
    model: the trainable.
    model_dir: folder of the other run.

  Raises:
    CheckpointError: the folder is not a run folder, or no checkpoint can be read.
    ConfigError: the component or the configuration of the other run differs from `model`.
  """
  component, config, params = load_inference_params(model_dir)
  if component != model.component:
    raise ConfigError(f"{model_dir} is a run of {component!r}, this one trains {model.component!r}")
  return model.run_params(config, params, f"the run {model_dir}")


def codebooks_of(model: StageTrainable, name: str | os.PathLike[str], dataset: Dataset) -> Params:
  """Returns the codebooks of a bundle's codec as initial parameters of a stage.

  Args:
    model: the trainable of the stage.
    name: name or folder of the bundle.
    dataset: the training data. If it is a token store, the hash of its tokenizers is compared with
      the bundle.

  Raises:
    BundleError: the bundle cannot be read.
    ConfigError: the codebooks do not have the shape that the stage requires.
    DataError: the tokens were not made by the tokenizers of the bundle.
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
