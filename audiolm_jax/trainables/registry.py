"""Maps the names of components to trainables, and loads the inference parameters of runs."""

import importlib
import os
from typing import Any

import jax

from audiolm_jax.core import configs
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import CheckpointError
from audiolm_jax.core.keys import new_key
from audiolm_jax.training import partitioning
from audiolm_jax.training.checkpoints import MODEL_FILE, Checkpoints, read_model_json

# Module, trainable and configuration of each component. A module is imported on use, so reading the
# run of a codec does not import the stages.
_PACKAGE = "audiolm_jax.trainables"
COMPONENTS = {
  "codec": (f"{_PACKAGE}.codec", "CodecTrainable", "CodecTrainingConfig"),
  "semantic": (f"{_PACKAGE}.w2v_bert", "SemanticTrainable", "W2vBertConfig"),
  "units": (f"{_PACKAGE}.units", "UnitTrainable", "UnitTrainingConfig"),
  "stage": (f"{_PACKAGE}.stage", "StageTrainable", "StageTrainingConfig"),
  "detector": (f"{_PACKAGE}.detector", "DetectorTrainable", "DetectorTrainingConfig"),
}


def home_of(component: str) -> tuple[str, str, str] | None:
  """Returns the entry of a component in `COMPONENTS`; None if the component is unknown.

  Args:
    component: a key of `COMPONENTS`, or "NAME_stage" for the stage NAME.
  """
  return COMPONENTS.get("stage" if component.endswith("_stage") else component)


def load_inference_params(
  model_dir: str | os.PathLike[str], step: int | None = None
) -> tuple[str, Any, JsonDict]:
  """Reads the inference parameters of a run.

  Args:
    model_dir: folder of the run.
    step: step of the checkpoint; None for the newest checkpoint that can be read.

  Returns:
    The name of the component, its configuration, and its parameters as nested dicts of NumPy
    arrays. If the run computes averaged parameters, these are returned.

  Raises:
    CheckpointError: the folder is not a run folder, its model.json lacks a field, the component is
      unknown, the step is missing, or no checkpoint can be read.
    ConfigError: the recorded configuration is invalid.
  """
  description = read_model_json(model_dir)
  component = str(description.get("component"))
  home = home_of(component)
  if home is None:
    raise CheckpointError(
      f"{model_dir} trains {component!r}; known components are {', '.join(COMPONENTS)}"
    )
  for field in ("config", "batch_shapes"):
    if field not in description:
      raise CheckpointError(
        f"{model_dir}/{MODEL_FILE} lacks {field!r}; restore the file, or train the model again"
      )
  module_name, trainable_name, config_name = home
  module = importlib.import_module(module_name)
  config = configs.from_dict(getattr(module, config_name), description["config"])
  trainable = getattr(module, trainable_name)(config)
  batch = {
    name: jax.ShapeDtypeStruct(tuple(entry["shape"]), entry["dtype"])
    for name, entry in description["batch_shapes"].items()
  }
  boxed = jax.eval_shape(trainable.init, new_key(0), batch)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), partitioning.unbox(boxed)
  )
  checkpoints = Checkpoints(model_dir, keep=None)
  restored = checkpoints.restore(abstract, step)
  checkpoints.close()
  if restored is None:
    raise CheckpointError(f"{model_dir} has no checkpoint yet; train it first")
  return component, config, jax.device_get(trainable.inference_params(restored.state))
