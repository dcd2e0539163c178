"""What a bundle's folder holds, and whether it is what was written, part by part."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from audiolm_jax.bundles import migration, tensors
from audiolm_jax.bundles.folder import load_bundle, read_manifest
from audiolm_jax.core.errors import BundleError, ConfigError


class Part(NamedTuple):
  """A component of a bundle.

  Attributes:
    name: as in `bundle.json`; its file is `NAME.safetensors`.
    kind: of tokenizers, such as "soundstream"; else empty.
    size: of its file, bytes; None where the file is missing.
    parameters: how many weights; None where the file says nothing readable.
  """

  name: str
  kind: str
  size: int | None
  parameters: int | None


def list_parts(folder: Path) -> list[Part]:
  """The components that `bundle.json` names, by what their files say at their heads.

  Raises:
    BundleError: `bundle.json` cannot be read or names none.
  """
  found = []
  for name, entry in _components(folder, read_manifest(folder)).items():
    path = folder / f"{name}.safetensors"
    kind = entry.get("type", "") if isinstance(entry, Mapping) else ""
    size = path.stat().st_size if path.is_file() else None
    found.append(Part(name, kind, size, _count_parameters(path)))
  return found


def find_damage(folder: Path) -> list[str]:
  """Everything that is wrong with a bundle, a sentence each; nothing where it is whole and loads.

  Each component's weights are compared with the hash in `bundle.json`, also where an earlier one is
  damaged; then the bundle is loaded, which finds out whether its parts belong together.
  """
  try:
    manifest = migration.migrate(folder, read_manifest(folder))
    components = _components(folder, manifest)
  except BundleError as error:
    return [str(error)]
  except (KeyError, TypeError, AttributeError, ConfigError):
    return _load_error(folder)  # says it
  wrong = []
  for name, entry in components.items():
    path = folder / f"{name}.safetensors"
    try:
      found = tensors.hash_params(tensors.load_tensors(path))
    except BundleError as error:
      wrong.append(str(error))
      continue
    stated = entry.get("hash") if isinstance(entry, Mapping) else None
    if found != stated:
      wrong.append(
        f"{path} does not hold the weights that bundle.json was written with "
        f"(hash {found}, there {stated}); copy it again"
      )
  return wrong or _load_error(folder)


def folder_size(folder: Path) -> int:
  """Bytes of all files of a bundle."""
  return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _load_error(folder: Path) -> list[str]:
  try:
    load_bundle(folder)
  except BundleError as error:
    return [str(error)]
  return []


def _components(folder: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
  components = manifest.get("components")
  if not isinstance(components, Mapping) or not components:
    raise BundleError(f"{folder / 'bundle.json'} names no components; copy or export it again")
  return components


def _count_parameters(path: Path) -> int | None:
  """From the JSON at the head of a safetensors file, without reading the weights."""
  try:
    with open(path, "rb") as file:
      (length,) = struct.unpack("<Q", file.read(8))
      head = json.loads(file.read(min(length, path.stat().st_size)))
    shapes = [v["shape"] for k, v in head.items() if not tensors.is_beside_weights(k)]
  except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
    return None
  return sum(math.prod(shape) for shape in shapes)
