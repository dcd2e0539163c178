"""Folders of synthetic corpora: each has a file with the settings of its clips, and a manifest."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import UserError
from audiolm_jax.data.manifest import AudioClip
from audiolm_jax.io.files import atomic_write, check_writable

MANIFEST = "manifest.jsonl"
_SETTINGS = "settings.json"


def begin(folder: Path, settings: Json) -> None:
  """Creates the folder and the settings file of a corpus, or compares `settings` with the file.

  Args:
    folder: folder of the corpus.
    settings: values of all settings that determine the clips, by flag name, as JSON values.

  Raises:
    UserError: the folder cannot be written, or contains a corpus with other settings or a manifest
      without settings.
  """
  make_folder(folder)
  check_writable(folder / MANIFEST)
  path = folder / _SETTINGS
  if path.exists():
    before = json.loads(path.read_text())
    other = [name for name in settings if settings[name] != before.get(name)]
    if other:
      raise UserError(
        f"{folder} was created with other settings: --{', --'.join(other)}; give the same ones, or "
        "another --output_dir"
      )
  elif (folder / MANIFEST).exists():
    raise UserError(f"{folder} has the manifest of another corpus; give another --output_dir")
  else:
    with atomic_write(path) as file:
      file.write(json.dumps(settings, indent=2).encode())


def write_manifest(folder: Path, rows: Iterable[Json]) -> None:
  """Writes the manifest of a corpus, one row per clip, atomically."""
  with atomic_write(folder / MANIFEST) as file:
    file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def given_fields(clip: AudioClip, *names: str) -> dict[str, Any]:
  """Returns the named fields of a clip that are not None, for a row of a manifest."""
  return {name: value for name in names if (value := getattr(clip, name)) is not None}


def make_folder(folder: Path) -> None:
  """Creates a folder and its parents; raises `UserError` if it cannot be created."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot create the folder {folder}: {error.strerror or error}") from error
