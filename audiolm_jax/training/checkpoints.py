"""Checkpoints of a run, and what tells one model's checkpoints from another's.

A run folder holds `model.json` (what is trained, fully configured) and `checkpoint_<step>/` with
two items: `state`, the arrays, and `progress`, the data position and whatever else makes the next
step the one that an uninterrupted run would have made.
"""

import contextlib
import dataclasses
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

from audiolm_jax.core import configs
from audiolm_jax.core.errors import CheckpointError, ConfigError
from audiolm_jax.training.trainable import Trainable

PREFIX = "checkpoint"
MODEL_FILE = "model.json"
_UNFINISHED = ".orbax-checkpoint-tmp"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When a checkpoint is written, and how many stay.

  Attributes:
    period: steps between two checkpoints. A save takes place while training goes on, and the next
      one waits for it: a kill costs the steps since the newest checkpoint that is whole, at most
      twice this number, and at most this number if no save was under way.
    period_minutes: a checkpoint also when this long has passed since the last; 0 for never.
    keep: the newest so many stay.
  """

  period: int = 1000
  period_minutes: float = 0.0
  keep: int = 3


class Restored(NamedTuple):
  """A checkpoint read back.

  Attributes:
    step: of the checkpoint.
    state: the arrays, on their devices.
    progress: as it was saved.
    damaged: newer checkpoints that could not be read, and why.
  """

  step: int
  state: Any
  progress: dict[str, Any]
  damaged: dict[int, str]


class Checkpoints:
  """The checkpoints of one run folder; saving goes on in the background."""

  def __init__(self, model_dir: str | os.PathLike[str], *, keep: int = 3):
    self.model_dir = Path(model_dir).absolute()
    # Orbax narrates every save, and on a full disk all three print a traceback for every array.
    for name in ("absl", "asyncio"):
      logging.getLogger(name).setLevel(logging.CRITICAL)
    self._hook = sys.unraisablehook
    sys.unraisablehook = _without_tensorstore(self._hook)
    self._saving: int | None = None
    self._manager = ocp.CheckpointManager(
      self.model_dir,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, step_prefix=PREFIX, cleanup_tmp_directories=True
      ),
    )

  def save(self, step: int, state: Any, progress: Mapping[str, Any]) -> None:
    """Begins to write `checkpoint_<step>`, which appears whole or not at all.

    The arrays are copied first: the caller may donate them at once.

    Raises:
      CheckpointError: it could not begin, or the one before it failed and nobody waited for it; the
        older checkpoints are intact.
    """
    self._saving = step
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          # On CPU a host view may share the buffer that the next step overwrites.
          state=ocp.args.StandardSave(jax.block_until_ready(_copied(state))),
          progress=ocp.args.JsonSave(dict(progress)),
        ),
      )

  def wait(self) -> None:
    """Returns when the last save is on disk; raises `CheckpointError` if it could not be."""
    with self._writing():
      self._manager.wait_until_finished()

  def latest_step(self) -> int | None:
    """The newest step that was saved, or None."""
    return self._manager.latest_step()

  def all_steps(self) -> list[int]:
    """The steps that are kept, oldest first."""
    return sorted(self._manager.all_steps())

  def restore(self, abstract: Any, step: int | None = None) -> Restored | None:
    """The newest checkpoint that can be read, or that of `step`; None if there is none.

    Args:
      abstract: ShapeDtypeStructs with the shardings that the arrays shall have; they assert the
        structure and place the arrays, whatever mesh wrote them.
      step: which one; None for the newest, and where it is damaged, the one before it.
    Raises:
      CheckpointError: there are checkpoints, and none of them can be read.
    """
    self._manager.reload()
    steps = sorted(self._manager.all_steps(), reverse=True)
    if step is not None and step not in steps:
      there = ", ".join(map(str, reversed(steps))) or "none"
      raise CheckpointError(f"{self.model_dir} has no {PREFIX}_{step}; there are: {there}")
    damaged: dict[int, str] = {}
    for candidate in steps if step is None else [step]:
      try:
        items = self._manager.restore(
          candidate,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
          ),
        )
        return Restored(candidate, items["state"], items["progress"], damaged)
      except Exception as error:  # damaged files raise anything
        damaged[candidate] = _first_line(error)
    if not damaged:
      return None
    bad, why = next(iter(damaged.items()))
    raise CheckpointError(
      f"{PREFIX}_{bad} in {self.model_dir} cannot be read ({why}), nor can another; "
      f"train into another MODEL_DIR"
    )

  def set_aside(self, damaged: Mapping[int, str]) -> None:
    """Renames checkpoints that cannot be read, so that their steps can be saved anew."""
    for step in damaged:
      folder = self.model_dir / f"{PREFIX}_{step}"
      aside = self.model_dir / f"damaged_{PREFIX}_{step}_{time.time_ns()}"
      if jax.process_index() == 0 and folder.exists():
        folder.rename(aside)
    self._manager.reload()

  def close(self) -> None:
    """Waits for the last save and lets go of the folder."""
    sys.unraisablehook = self._hook
    self.wait()
    self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Turns what goes wrong with the disk into a `CheckpointError`."""
    try:
      yield
    except jax.errors.JaxRuntimeError:
      raise  # another process is gone, which is no matter of disks
    except (OSError, ValueError, RuntimeError) as error:
      raise self._not_written(error) from error

  def _not_written(self, error: Exception) -> CheckpointError:
    """Clears away what was written in vain, which fills a full disk."""
    # The manager gives up on a save before the thread that writes it has ended.
    with contextlib.suppress(Exception):
      self._manager._checkpointer.wait_until_finished()
    if jax.process_index() == 0:
      _remove_all(self.model_dir, f"{PREFIX}_{self._saving}{_UNFINISHED}*")
    steps = [s for s in self._manager.all_steps(read=True) if s != self._saving]
    last = f"the newest whole one is {PREFIX}_{max(steps)}" if steps else "there is no other yet"
    return CheckpointError(
      f"{PREFIX}_{self._saving} could not be written to {self.model_dir} ({_first_line(error)}); "
      f"{last}"
    )


def describe_model(
  trainable: Trainable[Any], batch: Mapping[str, Any], random_seed: int
) -> dict[str, Any]:
  """What `model.json` holds: component, configuration, seed and the shapes of a batch."""
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
  model_dir: str | os.PathLike[str], description: Mapping[str, Any], config_type: type
) -> None:
  """Refuses to go on with the checkpoints of a differently configured run.

  A field that came after the run began had its default then.

  Raises:
    CheckpointError: names the fields that differ, with both values.
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
      f"the checkpoints in {model_dir} are of another configuration: {shown}; "
      f"set these back or train into another MODEL_DIR"
    )


def read_model_json(model_dir: str | os.PathLike[str]) -> dict[str, Any]:
  """The contents of `model.json`, or a `CheckpointError` that says what is wrong with it."""
  path = Path(model_dir) / MODEL_FILE
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise CheckpointError(
      f"{model_dir} is not the folder of a run: it has no {MODEL_FILE}"
    ) from None
  except (OSError, ValueError) as error:
    raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error


def _without_tensorstore(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
  """`hook` without what TensorStore's threads hand it when their save has failed before them."""

  def handed(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      hook(unraisable)

  return handed


def _remove_all(folder: Path, pattern: str) -> None:
  """Removes what is called so, until writers that have not noticed their failure leave it gone."""
  gone = 0
  for _ in range(40):
    found = list(folder.glob(pattern))
    gone = 0 if found else gone + 1
    if gone == 4:
      break
    for path in found:
      shutil.rmtree(path, ignore_errors=True)
    time.sleep(0.05)


def _copied(state: Any) -> Any:
  if jax.default_backend() != "cpu":
    return state
  return jax.tree.map(lambda x: x.copy(), state)


def _first_line(error: BaseException) -> str:
  text = str(error).strip().splitlines()
  line = text[0].split(" [os_error_code")[0] if text else type(error).__name__
  return line if len(line) <= 200 else f"{line[:90]}...{line[-107:]}"  # the reason stands last
