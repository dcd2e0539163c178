"""Saves and loads bundles: `bundle.json`, one safetensors file per component, `MODEL_CARD.md`."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Generator, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

from audiolm_jax.bundles import migration, tensors
from audiolm_jax.bundles.bundle import Bundle, token_hash
from audiolm_jax.bundles.components import describe, load_part, tokenizer_classes, type_name
from audiolm_jax.bundles.manifest import (
  CARD,
  MANIFEST,
  check_fields,
  find_folder,
  read_card,
  read_manifest,
  shipped_folder,
)
from audiolm_jax.bundles.migration import FORMAT_VERSION
from audiolm_jax.bundles.tensors import Storage
from audiolm_jax.codec.interface import Codec
from audiolm_jax.core import arguments, configs, plain_json
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import BundleError, ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.streams import differences
from audiolm_jax.detection.detector import Detector
from audiolm_jax.detection.watermark import Watermark
from audiolm_jax.lm.stage import CODEBOOKS, ModelConfig, Stage, StageSpec
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
from audiolm_jax.semantic.resampled import own_tokenizer, tokenizer_at


def load_bundle(
  name_or_dir: str | os.PathLike[str], *, stages: Collection[str] | None = None
) -> Bundle:
  """Loads a shipped bundle by its name, or any bundle by its folder.

  Args:
    name_or_dir: a name from `list_bundles()`, or the path of a folder.
    stages: names of the stages to load; None for all, () for the tokenizers alone.

  Raises:
    BundleError: the bundle does not exist, is damaged or inconsistent, has an unknown format
      version, or lacks one of `stages`.
    UserError: `stages` is not a collection of names, or the process was forked after JAX started.
  """
  folder = find_folder(name_or_dir)
  if stages is not None:
    stages = arguments.names(stages, "stages", 'names of stages, such as ("semantic", "coarse")')
  manifest = read_manifest(folder)
  try:
    return _assemble(folder, migration.migrate(folder, manifest), stages)
  except KeyError as error:
    raise BundleError(
      f"{folder / MANIFEST} lacks or misnames {error}; export the bundle again"
    ) from error
  except ConfigError as error:
    raise BundleError(f"{folder / MANIFEST} does not fit this version: {error}") from error


def save_bundle(
  bundle: Bundle,
  folder: str | os.PathLike[str],
  *,
  storage: Storage | str = Storage.FLOAT32,
  shared_with: str = "",
) -> Path:
  """Writes a bundle to a temporary folder, which then replaces `folder` if it exists.

  Stages were trained on the tokens of the tokenizers, so writing must not change these tokens. In a
  bundle with stages, the format of each tokenizer is therefore the narrowest, from `storage` up to
  float32, that preserves its tokens. To get small tokenizers, export them in a narrow format before
  the corpus is tokenized.

  Args:
    bundle: the bundle to write.
    folder: the folder to write; its parent must exist.
    storage: number format of the weights.
    shared_with: name of a shipped bundle. Parts with the same stored weights as its parts are not
      written again; loading reads them from that bundle, so both must be installed. "" to write
      all parts.

  Returns:
    The folder.

  Raises:
    BundleError: `bundle` is not a `Bundle`, its parts do not fit together, its metadata are not
      JSON, a weight is out of range of the format, the folder contains other files or cannot be
      written, or no bundle `shared_with` ships or it has none of the parts.
    UserError: `folder` is not a path, or `storage` is unknown.
  """
  if not isinstance(cast(object, bundle), Bundle):
    raise BundleError(f"the bundle to save is {configs.shown(bundle)}; give a Bundle")
  folder = Path(arguments.path(folder, "folder", "the folder to write"))
  storage = arguments.member(Storage, storage, "storage")
  _check_fit(bundle)
  _check_temperatures(bundle.name, bundle.temperatures, bundle.stages)
  check_replaceable(folder)
  with replaced(folder) as temporary:
    _write(bundle, temporary, storage, shared_with)
  return folder


def _assemble(folder: Path, manifest: JsonDict, wanted: Collection[str] | None) -> Bundle:
  components = manifest["components"]
  codec = _load_tokenizer(folder, "codec", manifest)
  semantic = tokenizer_at(_load_tokenizer(folder, "semantic", manifest), codec.spec.sample_rate)
  names = [entry["name"] for entry in manifest["stages"]]
  for name in wanted or ():
    if name not in names:
      raise BundleError(f"{folder} has no {name} stage; it has {', '.join(names) or 'none'}")
  _check_temperatures(folder.name, manifest["temperatures"], names)
  bundle = Bundle(
    name=manifest["name"],
    codec=codec,
    semantic=semantic,
    stages={
      name: _load_stage(folder, name, manifest, codec)
      for name in names
      if wanted is None or name in wanted
    },
    semantic_rate=manifest["semantic_rate"],
    temperatures=manifest["temperatures"],
    detector=_load_detector(folder, manifest),
    watermark=_load_watermark(folder, manifest),
    description=manifest["description"],
    metadata=manifest["metadata"],
    model_card=read_card(folder),
    path=folder,
  )
  if bundle.sample_rate != manifest["sample_rate"]:
    raise BundleError(
      f"{folder}: bundle.json states {manifest['sample_rate']} Hz, its codec runs at "
      f"{bundle.sample_rate} Hz; export the bundle again"
    )
  if bundle.token_hash != manifest["token_hash"]:
    raise BundleError(
      f"{folder}: bundle.json has token hash {manifest['token_hash']}, its tokenizers have "
      f"{bundle.token_hash}; copy or export it again"
    )
  if bundle.watermark is not None and components["watermark"]["token_hash"] != bundle.token_hash:
    raise BundleError(
      f"{folder}: its watermark was made for other codes than its codec produces; make it again "
      "with make_watermark"
    )
  for name in names:
    trained_on = components[f"{name}_stage"]["token_hash"]
    if trained_on != bundle.token_hash:
      raise BundleError(
        f"{folder}: the {name} stage was trained on other tokens (token hash "
        f"{configs.shown(trained_on)}) than its tokenizers produce ({bundle.token_hash}); train it "
        "on tokens of these tokenizers"
      )
  _check_fit(bundle)
  return bundle


def _check_temperatures(bundle: str, temperatures: Iterable[str], stages: Iterable[str]) -> None:
  for name in sorted(set(temperatures) - set(stages)):
    raise BundleError(f"{bundle}: a temperature for {name!r}, which is not one of its stages")


def _check_fit(bundle: Bundle) -> None:
  """Raises `BundleError` if rates, vocabularies, levels or codebooks of parts do not fit."""
  codec, semantic = bundle.codec.spec, bundle.semantic.spec
  if codec.sample_rate != semantic.sample_rate:
    raise BundleError(
      f"{bundle.name}: the codec runs at {codec.sample_rate} Hz, the semantic tokenizer at "
      f"{semantic.sample_rate} Hz; they must agree"
    )
  if bundle.watermark is not None:
    mark = bundle.watermark.config
    if mark.levels > codec.num_quantizers or mark.codebook_size != codec.codebook_size:
      raise BundleError(
        f"{bundle.name}: the watermark has {mark.levels} levels of {mark.codebook_size} codes, the "
        f"codec {codec.num_quantizers} of {codec.codebook_size}; make it again with make_watermark"
      )
  for name, stage in bundle.stages.items():
    for key, stream in stage.spec.streams.items():
      if key in bundle.streams:
        for difference in differences(stream, bundle.streams[key]):
          raise BundleError(
            f"{bundle.name}: the {name} stage was trained with {difference}; train it on tokens of "
            "these tokenizers"
          )
    if stage.spec.uses_codebooks(stage.config):
      own = _codebooks_of(
        bundle.codec, stage.spec, stage.config, f"{bundle.name}: the {name} stage"
      )
      if tensors.hash_params(own) != tensors.hash_params({CODEBOOKS: stage.params[CODEBOOKS]}):
        raise BundleError(
          f"{bundle.name}: the {name} stage was trained with the codebooks of another codec; train "
          "it with BUNDLE set to these tokenizers"
        )


def _codebooks_of(
  codec: Codec, spec: StageSpec, config: ModelConfig, what: str
) -> dict[str, np.ndarray]:
  """Returns the codebooks of a codec as a parameter of a stage.

  Args:
    codec: the codec.
    spec: spec of the stage.
    config: configuration of the stage's model.
    what: the beginning of the error message.

  Raises:
    BundleError: the codebooks do not have the shape that the stage needs.
  """
  try:
    return {CODEBOOKS: spec.codebooks(config, codec.codebooks)}
  except ConfigError as error:
    raise BundleError(f"{what} does not fit the codec: {error}") from error


def _load_tokenizer(folder: Path, name: str, manifest: Json) -> Any:
  part = describe(name, manifest)
  return tokenizer_classes(name, part.kind)[1](part.config, load_part(folder, name, part))


def _load_stage(folder: Path, name: str, manifest: Json, codec: Codec) -> Stage:
  part = describe(f"{name}_stage", manifest)
  if part.spec.name != name:
    raise BundleError(f"{folder}: the {name} stage has the spec of {part.spec.name!r}")
  params = load_part(folder, f"{name}_stage", part)
  if part.spec.uses_codebooks(part.config):
    own = _codebooks_of(codec, part.spec, part.config, f"{folder}: the {name} stage")
    if tensors.hash_params(own) != manifest["components"][f"{name}_stage"]["codebooks"]:
      raise BundleError(
        f"{folder}: the {name} stage was trained with other codebooks than its codec has; copy or "
        "export it again"
      )
    params = {**params, **own}
  return Stage(part.spec, part.config, params)


def _load_detector(folder: Path, manifest: Json) -> Detector | None:
  if "detector" not in manifest["components"]:
    return None
  part = describe("detector", manifest)
  return Detector(part.config, load_part(folder, "detector", part))


def _load_watermark(folder: Path, manifest: Json) -> Watermark | None:
  if "watermark" not in manifest["components"]:
    return None
  configs.checked(str, manifest["components"]["watermark"]["token_hash"], "a token hash")
  part = describe("watermark", manifest)
  return Watermark(part.config, load_part(folder, "watermark", part)["communities"])


def _write(bundle: Bundle, folder: Path, storage: Storage, shared_with: str) -> None:
  """Writes all files of a bundle.

  Args:
    bundle: the bundle.
    folder: an empty folder.
    storage: narrowest number format of the weights.
    shared_with: name of the shipped bundle that provides equal parts; "" for none.

  Raises:
    BundleError: the bundle cannot be written, has no part of `shared_with`, or no bundle of this
      name ships.
  """
  shared: Json = read_manifest(shipped_folder(shared_with))["components"] if shared_with else {}
  components: JsonDict = {}

  def add(name: str, params: Params, width: Storage, **fields: object) -> Params:
    """Writes a component and returns its parameters as they will be loaded."""
    stored = tensors.as_stored(params, width)
    components[name] = {**fields, "hash": tensors.hash_params(stored)}
    if name in shared and shared[name]["hash"] == components[name]["hash"]:
      # The part may be one that the other bundle shares in turn.
      components[name]["bundle"] = shared[name].get("bundle", shared_with)
    else:
      _write_bytes(folder / f"{name}.safetensors", tensors.encode_tensors(params, width))
    return stored

  tokenizers: dict[str, Any] = {}
  # The wrapper that resamples for the codec is not stored; loading adds it again.
  parts: dict[str, Any] = {"codec": bundle.codec, "semantic": own_tokenizer(bundle.semantic)}
  for name, tokenizer in parts.items():
    width = _tokenizer_storage(tokenizer, storage, bool(bundle.stages))
    config = configs.to_dict(tokenizer.config)
    kind = type_name(name, tokenizer)
    stored = add(name, tokenizer.params, width, type=kind, config=config)
    tokenizers[name] = type(tokenizer)(tokenizer.config, stored)
  tokens = token_hash(
    tokenizers["codec"], tokenizer_at(tokenizers["semantic"], bundle.codec.spec.sample_rate)
  )
  for name, stage in bundle.stages.items():
    own = dict(stage.params)
    fields: JsonDict = {
      "spec": configs.to_dict(stage.spec),
      "config": configs.to_dict(stage.config),
      "token_hash": tokens,
    }
    if stage.spec.uses_codebooks(stage.config):
      # The codec's file contains the codebooks, in a format that preserves their values.
      fields["codebooks"] = tensors.hash_params({CODEBOOKS: own.pop(CODEBOOKS)})
    add(f"{name}_stage", own, storage, **fields)
  if bundle.detector is not None:
    config = configs.to_dict(bundle.detector.config)
    add("detector", bundle.detector.params, storage, config=config)
  if bundle.watermark is not None:
    config = configs.to_dict(bundle.watermark.config)
    communities = {"communities": bundle.watermark.communities}
    add("watermark", communities, Storage.FLOAT32, config=config, token_hash=tokens)
  if shared_with and not any("bundle" in entry for entry in components.values()):
    raise BundleError(f"no part of {bundle.name} is equal to one of {shared_with}; share none")
  manifest = {
    "format_version": FORMAT_VERSION,
    "name": bundle.name,
    "description": bundle.description,
    "sample_rate": bundle.sample_rate,
    "token_hash": tokens,
    "semantic_rate": bundle.semantic_rate,
    "temperatures": dict(bundle.temperatures),
    "stages": [{"name": name, "kind": stage.spec.kind} for name, stage in bundle.stages.items()],
    "components": components,
    "metadata": dict(bundle.metadata),
  }
  try:
    content = json.dumps(manifest, indent=2) + "\n"
  except (TypeError, ValueError, RecursionError) as error:
    raise BundleError(
      f"{configs.shown(bundle.name)} cannot be written as a bundle: {error}; use only values of "
      "JSON in its metadata"
    ) from error
  _check_readable(bundle.name, content)
  _write_bytes(folder / MANIFEST, content.encode())
  if bundle.model_card:
    _write_bytes(folder / CARD, bundle.model_card.encode())


def _check_readable(name: str, content: str) -> None:
  """Raises `BundleError` if loading would reject a field or a configuration of a manifest."""
  try:
    manifest = plain_json.parse(content)
    check_fields(manifest)
    for component in manifest["components"]:
      describe(component, manifest)
  except ValueError as error:
    raise BundleError(f"{configs.shown(name)} cannot be written as a bundle: {error}") from error


def _tokenizer_storage(
  tokenizer: Codec | ChunkedTokenizer, storage: Storage, has_stages: bool
) -> Storage:
  """Returns the narrowest format, not narrower than `storage`, that preserves all tokens.

  Returns `storage` if the bundle has no stages.
  """
  if not has_stages:
    return storage
  narrowest_first = list(reversed(Storage))
  widths = narrowest_first[narrowest_first.index(storage) :]  # float32 holds every weight
  return next(width for width in widths if tensors.survives(tokenizer.token_params, width))


def _write_bytes(path: Path, content: bytes) -> None:
  with open(path, "xb") as file:
    file.write(content)


def check_replaceable(folder: Path) -> None:
  """Raises `BundleError` if `folder` cannot be replaced by a bundle.

  A path can be replaced if its parent folder exists and the path is free, an empty folder or a
  bundle.
  """
  if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
    raise BundleError(f"{folder} exists and is not a bundle; choose another folder")
  if folder.exists() and not folder.is_dir():
    raise BundleError(f"{folder} is a file; choose a folder")
  if not folder.parent.is_dir():
    raise BundleError(f"cannot write {folder}: the folder {folder.parent} does not exist")


@contextlib.contextmanager
def replaced(folder: Path) -> Generator[Path]:
  """Yields a new folder that replaces `folder` when the `with` block ends without an error.

  If the new folder cannot be moved to its place, the old folder is moved back.

  Raises:
    BundleError: the folder cannot be written.
  """
  temporary, old = (folder.parent / f".{secrets.token_hex(6)}.tmp" for _ in range(2))
  try:
    temporary.mkdir()
    yield temporary
    if folder.exists():
      os.rename(folder, old)
    try:
      os.rename(temporary, folder)
    except OSError:
      if old.exists():
        os.rename(old, folder)
      raise
    shutil.rmtree(old, ignore_errors=True)
  except OSError as error:
    raise BundleError(f"cannot write {folder}: {error.strerror or error}") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
