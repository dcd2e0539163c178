"""Lists the components of a bundle's folder, and finds damaged components."""

import os
from pathlib import Path
from typing import NamedTuple

from audiolm_jax.bundles import migration, tensors
from audiolm_jax.bundles.components import component_path, describe, load_part
from audiolm_jax.bundles.folder import load_bundle
from audiolm_jax.bundles.manifest import find_folder, read_manifest
from audiolm_jax.core import configs
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import BundleError, ConfigError


class ComponentInfo(NamedTuple):
  """A component of a bundle.

  Attributes:
    name: name of the component in `bundle.json`; its file is `NAME.safetensors`.
    bundle: name of the shipped bundle whose folder has the file; "" for the bundle's own folder.
    kind: type of a tokenizer, such as "soundstream"; empty for other components.
    size: size of the file in bytes; None if the file is missing.
    parameters: number of weights; None if the file cannot be read.
  """

  name: str
  bundle: str
  kind: str
  size: int | None
  parameters: int | None


def list_parts(folder: Path) -> list[ComponentInfo]:
  """Returns a description of each component in `bundle.json`; reads only headers of other files.

  Raises:
    BundleError: `bundle.json` cannot be read or lists no components.
  """
  found: list[ComponentInfo] = []
  for name, entry in _components(folder, read_manifest(folder)).items():
    bundle = configs.checked(str, entry.get("bundle", ""), f"the bundle of {name}")
    path = component_path(folder, name, bundle)
    kind = configs.shown(entry["type"]).strip("'") if "type" in entry else ""
    size = path.stat().st_size if path.is_file() else None
    found.append(ComponentInfo(name, bundle, kind, size, _count_parameters(path)))
  return found


def shares_parts(name_or_dir: str | os.PathLike[str]) -> bool:
  """Returns whether a bundle uses parts of a shipped bundle.

  Args:
    name_or_dir: the name of a shipped bundle, or the folder of a bundle.

  Raises:
    BundleError: the bundle does not exist, or `bundle.json` cannot be read or lists no components.
  """
  folder = find_folder(name_or_dir)
  return any("bundle" in entry for entry in _components(folder, read_manifest(folder)).values())


def find_damage(folder: Path) -> list[str]:
  """Returns one sentence for each error that was found in a bundle.

  The weights of each component are compared with their hash in `bundle.json`. If all hashes match,
  the bundle is loaded to check that its components fit together.
  """
  try:
    manifest = migration.migrate(folder, read_manifest(folder))
    components = _components(folder, manifest)
  except BundleError as error:
    return [str(error)]
  except (KeyError, ConfigError):
    return _load_error(folder)  # its message describes the error
  wrong: list[str] = []
  for name in components:
    try:
      load_part(folder, name, describe(name, manifest))
    except KeyError:
      return _load_error(folder)
    except (BundleError, ConfigError) as error:
      wrong.append(str(error))
  return wrong or _load_error(folder)


def folder_size(folder: Path) -> int:
  """Returns the total size in bytes of the files of a bundle."""
  return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _load_error(folder: Path) -> list[str]:
  try:
    load_bundle(folder)
  except BundleError as error:
    return [str(error)]
  return []


def _components(folder: Path, manifest: Json) -> Json:
  components = manifest.get("components")
  if not components:
    raise BundleError(f"{folder / 'bundle.json'} names no components; copy or export it again")
  return components


def _count_parameters(path: Path) -> int | None:
  """Returns the number of weights from the header of a safetensors file; None if unreadable."""
  try:
    return tensors.count_weights(tensors.read_header(path))
  except BundleError:
    return None
