"""Reads and checks the text files of a bundle: `bundle.json` (the manifest) and `MODEL_CARD.md`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast, get_type_hints

from audiolm_jax.core import arguments, configs, plain_json
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import BundleError, ConfigError, UserError
from audiolm_jax.core.ranges import Rate, SampleRate, Temperature

MANIFEST = "bundle.json"
CARD = "MODEL_CARD.md"
_SHIPPED = Path(__file__).parent
_LARGEST_MANIFEST, _LARGEST_CARD = 1 << 24, 1 << 20  # bytes
# The names of stages and components are parts of file names.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class _Fields(TypedDict):
  """The types of the fields of `bundle.json` in all format versions."""

  name: str
  description: str
  sample_rate: SampleRate
  token_hash: str
  semantic_rate: Rate | None
  temperatures: Mapping[str, Temperature]
  stages: tuple[str | Mapping[str, str], ...]
  components: Mapping[str, Json]
  metadata: Json


def list_bundles() -> list[str]:
  """Returns the names of the bundles that ship with the package."""
  return sorted(p.parent.name for p in _SHIPPED.glob(f"*/{MANIFEST}"))


def shipped_folder(name: str) -> Path:
  """Returns the folder of a bundle that ships with the package.

  Raises:
    BundleError: no bundle of this name ships with the package.
  """
  if name not in list_bundles():
    raise BundleError(
      f"no bundle {configs.shown(name)} ships with this version; it has {', '.join(list_bundles())}"
    )
  return _SHIPPED / name


def find_folder(name_or_dir: str | os.PathLike[str]) -> Path:
  """Returns the folder of a bundle, given the name of a shipped bundle or a path.

  Raises:
    BundleError: the argument is not a text or path, or the bundle does not exist.
  """
  name_or_dir = _path(name_or_dir)
  shipped = list_bundles()
  if name_or_dir in shipped:
    return _SHIPPED / name_or_dir
  folder = Path(name_or_dir)
  if not folder.is_dir():
    known = f"the shipped bundles are {', '.join(shipped)}" if shipped else "no bundle is shipped"
    raise BundleError(f"no bundle {name_or_dir!r}: it is not a folder, and {known}")
  if not (folder / MANIFEST).is_file():
    raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}")
  return folder


def _path(given: object) -> str:
  try:
    return arguments.path(given, "the bundle", "the name or the folder of one bundle")
  except UserError as error:
    raise BundleError(str(error)) from error


def read_manifest(folder: Path) -> JsonDict:
  """Returns the content of `bundle.json`, of any format version.

  The fields that the file contains are valid, see `check_fields`; fields can be missing.

  Raises:
    BundleError: the file cannot be read, is not a JSON object, or a field is invalid.
  """
  path = folder / MANIFEST
  try:
    found = plain_json.parse(_read_limited(path, _LARGEST_MANIFEST))
  except (OSError, ValueError) as error:
    raise BundleError(f"{path} cannot be read ({error}); copy or export it again") from error
  if not isinstance(found, dict):
    raise BundleError(f"{path} does not describe a bundle; copy or export it again")
  manifest = cast(JsonDict, found)
  try:
    check_fields(manifest)
  except ConfigError as error:
    raise BundleError(f"{path}: {error}; export the bundle again") from error
  return manifest


def check_fields(manifest: Json) -> None:
  """Checks the types and values of the fields of a manifest; does not require any field.

  Raises:
    ConfigError: a field has a wrong type or is out of range; the name of a stage or component is
      not 1 to 64 letters, digits, - and _, or begins with - or _; two stages have the same name; or
      a text is too long or has characters that cannot be printed.
  """
  for field, hint in get_type_hints(_Fields, include_extras=True).items():
    if field in manifest:
      configs.checked(hint, manifest[field], field)
  stages = [
    stage if isinstance(stage, str) else stage.get("name", "")
    for stage in manifest.get("stages", ())
  ]
  for name in (*stages, *manifest.get("components", ())):
    if not _PLAIN_NAME.fullmatch(name):
      raise ConfigError(
        f"a stage or component is called {configs.shown(name)}; use letters, digits, - and _"
      )
  if len(set(stages)) < len(stages):
    raise ConfigError(f"several stages have the same name: {', '.join(stages)}")
  for field, longest in (("name", 256), ("description", 4096), ("token_hash", 64)):
    text = manifest.get(field, "")
    if not " ".join(text.split()).isprintable() or len(text) > longest:
      raise ConfigError(
        f"{field} is {configs.shown(text)}; use at most {longest} printable characters"
      )


def _read_limited(path: Path, most_bytes: int) -> bytes:
  """Returns the content of a regular file.

  Raises:
    ValueError: the path is not a regular file, or the file has more than `most_bytes` bytes.
    OSError: the file cannot be read.
  """
  if not path.is_file():
    raise ValueError("it is not a regular file")
  with open(path, "rb") as file:
    content = file.read(most_bytes + 1)
  if len(content) > most_bytes:
    raise ValueError(f"it has more than {most_bytes} bytes")
  return content


def read_card(folder: Path) -> str:
  """Returns the text of MODEL_CARD.md; "" if the file does not exist.

  Raises:
    BundleError: the file cannot be read or has more than 1 MiB.
  """
  path = folder / CARD
  if not path.exists():
    return ""
  try:
    return _read_limited(path, _LARGEST_CARD).decode("utf-8", errors="replace")
  except (OSError, ValueError) as error:
    raise BundleError(f"{path} cannot be read ({error}); copy or export it again") from error
