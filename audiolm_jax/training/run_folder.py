"""Writes the files in a run folder that describe the run: model, configuration and versions."""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path

import jax

from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.products import Precision
from audiolm_jax.core.version import __version__
from audiolm_jax.io import files
from audiolm_jax.training.checkpoints import MODEL_FILE

CONFIG_FILE = "config.gin"
ARRAYS_FILE = "model-info.txt"
VERSIONS_FILE = "versions.json"
# Key in `versions.json` whose value is the precision of matrix products in training.
PRODUCTS = "products"

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_REPO = Path(__file__).resolve().parents[2]


def make_folder(folder: Path) -> None:
  """Creates the folder of a run.

  Raises:
    UserError: the folder cannot be created or is not writable.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"cannot create MODEL_DIR {folder}: {error.strerror}; choose another folder"
    ) from error
  files.check_writable(folder / MODEL_FILE)


def write_run_files(
  folder: Path, *, model: Json, arrays: str, precision: Precision, config_text: str
) -> None:
  """Writes `model.json`, `model-info.txt`, `versions.json` and `config.gin`, only in process 0.

  Args:
    folder: the run folder.
    model: result of `checkpoints.describe_model`.
    arrays: result of `TrainingProgram.description`.
    precision: precision of matrix products in training.
    config_text: the resolved gin configuration; `config.gin` is not written if it is empty.
  """
  if jax.process_index() != 0:
    return
  texts = {
    MODEL_FILE: json.dumps(model, indent=2) + "\n",
    ARRAYS_FILE: arrays,
    VERSIONS_FILE: json.dumps({**versions(), PRODUCTS: precision}, indent=2) + "\n",
  }
  if config_text:
    texts[CONFIG_FILE] = config_text
  for name, text in texts.items():
    with files.atomic_write(folder / name) as file:
      file.write(text.encode())


def recorded_precision(folder: Path) -> Precision | None:
  """Returns the recorded precision of matrix products of the run in this folder.

  Returns None if `versions.json` cannot be read or contains an unknown precision.
  """
  try:
    # Earlier versions of this package had no such setting and used float32.
    found = json.loads((folder / VERSIONS_FILE).read_text()).get(PRODUCTS, Precision.FLOAT32)
    return Precision(found)
  except (OSError, ValueError):
    return None


def versions() -> JsonDict:
  """Returns the versions of packages and Python, the devices, the git commit and the command."""
  found = {"audiolm_jax": __version__}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return {
    "packages": found,
    "python": platform.python_version(),
    "platform": platform.platform(),
    "devices": sorted({d.device_kind for d in jax.devices()}),
    "device_count": jax.device_count(),
    **_git_state(_REPO),
    "command": sys.argv,
  }


def _git_state(repo: Path) -> JsonDict:
  """Returns the git commit and whether tracked files differ from the commit; None if unknown."""
  unknown = {"git_commit": None, "git_dirty": None}
  found = _git(repo, "rev-parse", "--show-toplevel", "HEAD")
  # An installed package may be in a folder of an unrelated repository.
  if not found or Path(found.splitlines()[0]) != repo:
    return unknown
  changed = _git(repo, "status", "--porcelain", "--untracked-files=no")
  return {
    "git_commit": found.splitlines()[1],
    "git_dirty": None if changed is None else bool(changed),
  }


def _git(repo: Path, *arguments: str) -> str | None:
  try:
    done = subprocess.run(
      ["git", "-C", str(repo), *arguments], capture_output=True, text=True, check=False
    )
  except OSError:  # git is not installed
    return None
  return done.stdout.strip() if done.returncode == 0 else None
