"""Checkpoints of a run, and the file that records the configuration of their model.

A run folder contains `model.json`, the full configuration of the model, and folders
`checkpoint_<step>/`. A checkpoint has two items: `state` contains the arrays; `progress` contains
the data position and all other values that a resumed run needs to equal an uninterrupted run. The
file `hashes.json` contains the hash of each file of the checkpoint, and `restore` compares these
hashes with the files. Checkpoints of earlier versions have no hashes.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from audiolm_jax.core import configs
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import CheckpointError, ConfigError
from audiolm_jax.core.modules import Batch
from audiolm_jax.training.processes import agreed
from audiolm_jax.training.trainable import AnyTrainable

PREFIX = "checkpoint"
MODEL_FILE = "model.json"
HASHES_FILE = "hashes.json"
_UNFINISHED = ".orbax-checkpoint-tmp"
_HASH = "sha256"
# Orbax writes time stamps to the second file after it gives the checkpoint its final name.
_NOT_HASHED = (HASHES_FILE, "_CHECKPOINT_METADATA")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When checkpoints are written, and how many are kept.

  Attributes:
    period: steps between two checkpoints. Training continues during a save, but the next save
      waits until the current save is complete. A killed run loses the steps since the newest
      complete checkpoint: at most this number, or twice this number if the run is killed during a
      save.
    period_minutes: minutes since the last save after which an additional checkpoint is saved; 0 to
      save no additional checkpoints.
    keep: number of newest checkpoints to keep.
  """

  period: int = 1000
  period_minutes: float = 0.0
  keep: int = 3


class Restored(NamedTuple):
  """A restored checkpoint.

  Attributes:
    step: step of the checkpoint.
    state: the arrays, on their devices.
    progress: the saved progress.
    damaged: steps of the newer checkpoints that could not be read, with the reasons.
  """

  step: int
  state: PyTree
  progress: JsonDict
  damaged: dict[int, str]


class Checkpoints:
  """The checkpoints of one run folder, saved in the background.

  Args:
    model_dir: the run folder.
    keep: number of newest checkpoints to keep. None to delete no files, not even unfinished
      checkpoints; use None to read the folder of a run that is still training.
  """

  def __init__(self, model_dir: str | os.PathLike[str], *, keep: int | None = 3):
    self.model_dir = Path(model_dir).absolute()
    # Orbax logs every save, and on a full disk it logs a traceback for every array.
    for name in ("absl", "asyncio"):
      logging.getLogger(name).setLevel(logging.CRITICAL)
    self._hook = sys.unraisablehook
    sys.unraisablehook = _without_tensorstore(self._hook)
    self._saving: int | None = None
    self._manager = ocp.CheckpointManager(
      self.model_dir,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        step_prefix=PREFIX,
        cleanup_tmp_directories=keep is not None,
        # Called in the background, before the checkpoint gets its final name.
        async_options=ocp.AsyncOptions(post_finalization_callback=self._write_hashes),
      ),
    )

  def save(self, step: int, state: PyTree, progress: Json) -> None:
    """Starts to write `checkpoint_<step>` atomically.

    The arrays are copied before this method returns, so the caller may donate them afterwards.

    Args:
      step: step of the checkpoint.
      state: the arrays.
      progress: JSON values to save with the arrays.

    Raises:
      CheckpointError: this save could not start, or the previous save failed and `wait` was not
        called. Older checkpoints are intact.
    """
    self._saving = step
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          # On a CPU, a host view may share the buffer that the next step overwrites.
          state=ocp.args.StandardSave(jax.block_until_ready(_copied(state))),
          progress=ocp.args.JsonSave(dict(progress)),
        ),
      )

  def wait(self) -> None:
    """Waits until the last save is written to disk.

    Raises:
      CheckpointError: the save failed.
    """
    with self._writing():
      self._manager.wait_until_finished()

  def latest_step(self) -> int | None:
    """Returns the step of the newest checkpoint; None if there is no checkpoint."""
    return self._manager.latest_step()

  def all_steps(self) -> list[int]:
    """Returns the steps of all checkpoints, from old to new."""
    return sorted(self._manager.all_steps())

  def restore(self, abstract: PyTree, step: int | None = None) -> Restored | None:
    """Restores a checkpoint; returns None if the folder has no checkpoint.

    Args:
      abstract: tree of ShapeDtypeStructs with shardings. It determines the structure and the
        sharding of the restored arrays; the mesh may differ from the mesh of the saved arrays.
      step: step of the checkpoint; None for the newest checkpoint that can be read.

    Raises:
      CheckpointError: the checkpoint of `step` is missing or damaged; or `step` is None and all
        checkpoints are damaged.
    """
    self._manager.reload()
    steps = sorted(self._manager.all_steps(), reverse=True)
    if step is not None and step not in steps:
      saved = ", ".join(map(str, reversed(steps))) or "none"
      raise CheckpointError(f"{self.model_dir} has no {PREFIX}_{step}; saved steps: {saved}")
    damaged: dict[int, str] = {}
    for candidate in steps if step is None else [step]:
      try:
        _check_hashes(self.model_dir / f"{PREFIX}_{candidate}")
        items = self._manager.restore(
          candidate,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
          ),
        )
        return Restored(candidate, items["state"], items["progress"], damaged)
      except Exception as error:  # damaged files can raise any exception
        damaged[candidate] = _first_line(error)
    if not damaged:
      return None
    bad, why = next(iter(damaged.items()))
    raise CheckpointError(
      f"{PREFIX}_{bad} in {self.model_dir} cannot be read ({why}), and neither can any other; "
      f"choose another MODEL_DIR"
    )

  def set_aside(self, damaged: Mapping[int, str]) -> None:
    """Renames damaged checkpoints, so that their steps can be saved again.

    Args:
      damaged: see `Restored`; only the steps are used.
    """
    for step in damaged:
      folder = self.model_dir / f"{PREFIX}_{step}"
      aside = self.model_dir / f"damaged_{PREFIX}_{step}_{time.time_ns()}"
      if jax.process_index() == 0 and folder.exists():
        folder.rename(aside)
    self._manager.reload()

  def close(self) -> None:
    """Waits for the last save and closes the Orbax manager.

    Raises:
      CheckpointError: the save failed.
    """
    sys.unraisablehook = self._hook
    self.wait()
    self._manager.close()

  def _write_hashes(self) -> None:
    """Writes the hashes of the files of the checkpoint that is being saved."""
    if jax.process_index() != 0:
      return
    for folder in self.model_dir.glob(f"{PREFIX}_{self._saving}{_UNFINISHED}*"):
      content = {"algorithm": _HASH, "files": _hashes(folder)}
      (folder / HASHES_FILE).write_text(json.dumps(content, indent=1))

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Returns a context that converts errors of the file system to `CheckpointError`."""
    try:
      yield
    except jax.errors.JaxRuntimeError:
      raise  # another process has ended, which is not an error of the file system
    except (OSError, ValueError, RuntimeError) as error:
      raise self._not_written(error) from error

  def _not_written(self, error: Exception) -> CheckpointError:
    """Removes the files of a failed save and returns the `CheckpointError` to raise."""
    # The manager reports the failure before the writing thread has ended.
    with contextlib.suppress(Exception):
      checkpointer: Any = self._manager._checkpointer
      checkpointer.wait_until_finished()
    if jax.process_index() == 0:
      _remove_all(self.model_dir, f"{PREFIX}_{self._saving}{_UNFINISHED}*")
    steps = [s for s in self._manager.all_steps(read=True) if s != self._saving]
    last = f"the newest complete one is {PREFIX}_{max(steps)}" if steps else "no other exists yet"
    return CheckpointError(
      f"{PREFIX}_{self._saving} could not be written to {self.model_dir} ({_first_line(error)}); "
      f"{last}"
    )


def describe_model(trainable: AnyTrainable, batch: Batch, random_seed: int) -> JsonDict:
  """Returns the content of `model.json`: component, configuration, seed and shapes of a batch.

  Args:
    trainable: the trainable.
    batch: an example of a batch; only its shapes and dtypes are used.
    random_seed: seed of the run.
  """
  return {
    "component": trainable.component,
    "config": json.loads(json.dumps(configs.to_dict(trainable.config))),
    "random_seed": random_seed,
    "batch_shapes": {
      name: {"shape": list(np.shape(value)), "dtype": str(np.asarray(value).dtype)}
      for name, value in batch.items()
    },
  }


def check_same_model(
  model_dir: str | os.PathLike[str], description: Json, config_type: type
) -> None:
  """Checks that `model.json` in a run folder has the same component, configuration and seed.

  Fields that the recorded configuration lacks take their defaults, so runs of older versions can be
  resumed. Without `model.json`, nothing is checked.

  Args:
    model_dir: the run folder.
    description: result of `describe_model`.
    config_type: class of the configuration.

  Raises:
    CheckpointError: the descriptions differ, or `model.json` cannot be read. If they differ, the
      message lists the fields with both values.
  """
  path = Path(model_dir) / MODEL_FILE
  if not path.exists():
    return
  before = read_model_json(model_dir)
  with contextlib.suppress(ConfigError, KeyError, TypeError):
    config = configs.from_dict(config_type, before["config"])
    before = before | {"config": json.loads(json.dumps(configs.to_dict(config)))}
  differing = configs.differences(
    *({k: d.get(k) for k in ("component", "config", "random_seed")} for d in (before, description))
  )
  if differing:
    shown = "; ".join(differing[:8]) + (f"; and {len(differing) - 8} more" if differing[8:] else "")
    raise CheckpointError(
      f"the checkpoints in {model_dir} have another configuration: {shown}; "
      f"restore these values or choose another MODEL_DIR"
    )


def read_model_json(model_dir: str | os.PathLike[str]) -> JsonDict:
  """Returns the content of `model.json`.

  Raises:
    CheckpointError: the file is missing or cannot be read.
  """
  path = Path(model_dir) / MODEL_FILE
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise CheckpointError(
      f"{model_dir} is not a run folder: it has no {MODEL_FILE}; give the MODEL_DIR of a run"
    ) from None
  except (OSError, ValueError) as error:
    raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error


def _hashes(folder: Path) -> dict[str, str]:
  """Returns the SHA-256 of each file of a checkpoint, by its path relative to `folder`."""
  found = {}
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder).as_posix()
    if path.is_file() and name not in _NOT_HASHED:
      with open(path, "rb") as file:
        found[name] = hashlib.file_digest(file, _HASH).hexdigest()
  return found


def _check_hashes(folder: Path) -> None:
  """Raises `CheckpointError` if a file of a checkpoint has changed since it was written."""
  wrong = _changed_file(folder) if jax.process_index() == 0 else ""
  if agreed(bool(wrong)):
    raise CheckpointError(f"{wrong or 'a file'} is not the file that was written")


def _changed_file(folder: Path) -> str:
  """Returns the name of a missing or changed file; "" if no file differs or there are no hashes.

  If the hashes or the files cannot be read, returns `HASHES_FILE`.
  """
  path = folder / HASHES_FILE
  if not path.exists():
    return ""
  try:
    written = dict(json.loads(path.read_text())["files"])
    found = _hashes(folder)
  except (OSError, ValueError, KeyError, TypeError):
    return HASHES_FILE
  # Only the files in `written` are compared, because Orbax adds a marker file later.
  return next((name for name in sorted(written) if written[name] != found.get(name)), "")


def _without_tensorstore(
  hook: "Callable[[sys.UnraisableHookArgs], object]",
) -> "Callable[[sys.UnraisableHookArgs], None]":
  """Returns a hook that calls `hook`, except for TensorStore's errors after a failed save."""

  def filtered(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      hook(unraisable)

  return filtered


def _remove_all(folder: Path, pattern: str) -> None:
  """Removes the files that match `pattern`, repeatedly for up to 2 s.

  Threads that still write, because they detect the failure late, may create new files.
  """
  absent = 0
  for _ in range(40):
    found = list(folder.glob(pattern))
    absent = 0 if found else absent + 1
    if absent == 4:
      break
    for path in found:
      shutil.rmtree(path, ignore_errors=True)
    time.sleep(0.05)


def _copied(state: PyTree) -> PyTree:
  if jax.default_backend() != "cpu":
    return state
  return jax.tree.map(lambda x: x.copy(), state)


def _first_line(error: BaseException) -> str:
  text = str(error).strip().splitlines()
  line = text[0].split(" [os_error_code")[0] if text else type(error).__name__
  return line if len(line) <= 200 else f"{line[:90]}...{line[-107:]}"  # the end has the reason
