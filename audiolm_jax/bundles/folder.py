"""Saves and loads bundles: `bundle.json`, one safetensors file per part, `MODEL_CARD.md`."""

import contextlib
import importlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast, get_type_hints

import numpy as np

from audiolm_jax.bundles import migration, tensors
from audiolm_jax.bundles.bundle import Bundle, token_hash
from audiolm_jax.bundles.migration import FORMAT_VERSION
from audiolm_jax.bundles.tensors import Storage
from audiolm_jax.codec.interface import Codec
from audiolm_jax.core import arguments, configs, plain_json
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import BundleError, ConfigError, UserError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Rate, SampleRate, Temperature
from audiolm_jax.core.shapes import Shapes
from audiolm_jax.core.streams import differences
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.detection.detector import Detector
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig
from audiolm_jax.lm.stage import CODEBOOKS, ModelConfig, Stage, StageSpec
from audiolm_jax.sampling import registry
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
from audiolm_jax.semantic.resampled import own_tokenizer, tokenizer_at

MANIFEST = "bundle.json"
CARD = "MODEL_CARD.md"
# Configuration and class of each kind. A module is imported only when a bundle needs it.
_CODEC, _SEMANTIC, _PRETRAINED = (f"audiolm_jax.{p}" for p in ("codec", "semantic", "pretrained"))
_TOKENIZERS = {
  "codec": {
    "soundstream": (
      f"{_CODEC}.soundstream:SoundStreamConfig",
      f"{_CODEC}.soundstream_codec:SoundStreamCodec",
    ),
    "frame_rate": (
      f"{_CODEC}.frame_rate:FrameRateConfig",
      f"{_CODEC}.frame_rate_codec:FrameRateCodec",
    ),
    "dac": (f"{_PRETRAINED}.dac:DacConfig", f"{_PRETRAINED}.dac:DacCodec"),
    "encodec": (
      f"{_PRETRAINED}.encodec_layers:EncodecConfig",
      f"{_PRETRAINED}.encodec:EncodecCodec",
    ),
    "mimi": (f"{_PRETRAINED}.mimi_layers:MimiConfig", f"{_PRETRAINED}.mimi:MimiCodec"),
  },
  "semantic": {
    "w2v_bert": (
      f"{_SEMANTIC}.tokenizer:SemanticTokenizerConfig",
      f"{_SEMANTIC}.tokenizer:SemanticTokenizer",
    ),
    "units": (
      f"{_SEMANTIC}.unit_encoder:UnitTokenizerConfig",
      f"{_SEMANTIC}.unit_encoder:UnitTokenizer",
    ),
    "hubert": (
      f"{_PRETRAINED}.hubert_tokenizer:HubertTokenizerConfig",
      f"{_PRETRAINED}.hubert_tokenizer:HubertTokenizer",
    ),
    "w2v_bert_2": (
      f"{_PRETRAINED}.w2v_bert_2_tokenizer:W2vBert2TokenizerConfig",
      f"{_PRETRAINED}.w2v_bert_2_tokenizer:W2vBert2Tokenizer",
    ),
  },
}
_SHIPPED = Path(__file__).parent
_LARGEST_MANIFEST, _LARGEST_CARD = 1 << 24, 1 << 20  # bytes
# A name of a stage or component is a part of the name of a file.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class _Fields(TypedDict):
  """The fields of `bundle.json` of any version; the version itself is checked by `migration`."""

  name: str
  description: str
  sample_rate: SampleRate
  token_hash: str
  semantic_rate: Rate | None
  temperatures: Mapping[str, Temperature]
  stages: tuple[str | Mapping[str, str], ...]
  components: Mapping[str, Json]
  metadata: Json


def codec_of(config: object, params: Params) -> Codec:
  """Returns the `Codec` of this configuration and these parameters.

  Raises:
    BundleError: no codec that a bundle can contain has this configuration.
  """
  own = _home(type(config))
  for kind, (home, _) in _TOKENIZERS["codec"].items():
    if own == home:
      _, codec_class = tokenizer_classes("codec", kind)
      return codec_class(config, params)
  raise BundleError(f"no codec that a bundle can contain has a {type(config).__name__}")


def list_bundles() -> list[str]:
  """Returns the names of the bundles that ship with the package."""
  return sorted(p.parent.name for p in _SHIPPED.glob(f"*/{MANIFEST}"))


def load_bundle(
  name_or_dir: str | os.PathLike[str], *, stages: Collection[str] | None = None
) -> Bundle:
  """Loads a shipped bundle by its name, or any bundle by its folder.

  Args:
    name_or_dir: a name from `list_bundles()`, or the path of a folder.
    stages: names of the stages to load; None for all, () for the tokenizers alone.

  Raises:
    BundleError: the bundle does not exist, is damaged, or has stages that were trained on the
      tokens of other tokenizers.
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
  bundle: Bundle, folder: str | os.PathLike[str], *, storage: Storage | str = Storage.FLOAT32
) -> Path:
  """Writes a bundle atomically, and replaces an existing one.

  Args:
    bundle: the bundle to write.
    folder: the folder to write; its parent must exist.
    storage: number format of the weights. The tokens must remain those that the stages were trained
      on, so in a bundle with stages the tokenizers are stored in the narrowest format, not narrower
      than `storage`, that preserves every weight that determines tokens. For small tokenizers,
      export them in a narrow format first, and tokenize the corpus with the exported ones.

  Returns:
    The folder.

  Raises:
    BundleError: the folder contains something else or cannot be written, or a weight is out of
      range.
    UserError: an argument has another type.
  """
  if not isinstance(cast(object, bundle), Bundle):
    raise BundleError(f"the bundle to save is {configs.shown(bundle)}; give a Bundle")
  folder = Path(arguments.path(folder, "folder", "the folder to write"))
  storage = arguments.member(Storage, storage, "storage")
  _check_fit(bundle)
  _check_temperatures(bundle.name, bundle.temperatures, bundle.stages)
  check_replaceable(folder)
  with replaced(folder) as temporary:
    _write(bundle, temporary, storage)
  return folder


def find_folder(name_or_dir: str | os.PathLike[str]) -> Path:
  """Returns the folder of a shipped bundle by its name, or the given folder of a bundle.

  Raises:
    BundleError: the bundle does not exist.
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

  The fields have the types that all code may expect, names of stages and components are plain, and
  name and description have no control characters.

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
    _check_fields(manifest)
  except ConfigError as error:
    raise BundleError(f"{path}: {error}; export the bundle again") from error
  return manifest


def _check_fields(manifest: Json) -> None:
  """Raises `ConfigError` for fields of other types, and names that several stages have."""
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
  """Returns the content of a regular file; raises `OSError` or `ValueError`."""
  if not path.is_file():
    raise ValueError("it is not a regular file")
  with open(path, "rb") as file:
    content = file.read(most_bytes + 1)
  if len(content) > most_bytes:
    raise ValueError(f"it has more than {most_bytes} bytes")
  return content


class Part(NamedTuple):
  """A component as `bundle.json` describes it.

  Attributes:
    config: its configuration.
    spec: of a stage; None for other components.
    kind: of a tokenizer; "" for other components.
    shapes: of its parameters.
    hash: of its parameters.
    types: of its arrays in the file.
  """

  config: Any
  spec: Any
  kind: str
  shapes: Shapes
  hash: str
  types: Sequence[str] = tensors.FLOATS


def describe(name: str, manifest: Json) -> Part:
  """Returns what a manifest of the current format states about a component.

  Raises:
    BundleError: the component is of an unknown type.
    ConfigError: its configuration is not valid.
    KeyError: the manifest lacks a field.
  """
  entry = manifest["components"][name]
  expected_hash = configs.checked(str, entry["hash"], f"the hash of {name}")
  if name in _TOKENIZERS:
    known, kind = _TOKENIZERS[name], configs.checked(str, entry["type"], f"the type of {name}")
    if kind not in known:
      raise BundleError(f"{name} of unknown type {configs.shown(kind)}; known: {', '.join(known)}")
    config = configs.from_dict(tokenizer_classes(name, kind)[0], entry["config"])
    return Part(config, None, kind, config.parameter_shapes(), expected_hash)
  if name == "detector":
    config = configs.from_dict(ClassifierConfig, entry["config"])
    return Part(config, None, "", config.parameter_shapes(), expected_hash)
  if name == "watermark":
    config = configs.from_dict(WatermarkConfig, entry["config"])
    return Part(config, None, "", config.parameter_shapes(), expected_hash, ("U16",))
  kinds = {f"{stage['name']}_stage": stage["kind"] for stage in manifest["stages"]}
  if name not in kinds:
    raise BundleError(f"a component {name!r} that is no part of a bundle of this version")
  spec_class = registry.spec_class({"kind": kinds[name]})
  spec = configs.from_dict(spec_class, entry["spec"])
  config = configs.from_dict(spec_class.config_class(), entry["config"])
  spec.check_config(config)
  shapes = spec.parameter_shapes(config)
  if spec.uses_codebooks(config):
    del shapes[CODEBOOKS]  # the codec's file contains them
  return Part(config, spec, "", shapes, expected_hash)


def load_part(folder: Path, name: str, part: Part) -> dict[str, Any]:
  """Returns the parameters of a component.

  Raises:
    BundleError: its file is damaged, or is not the one that `bundle.json` describes.
  """
  path = folder / f"{name}.safetensors"
  params = tensors.load_tensors(path, part.shapes, part.types)
  found = tensors.hash_params(params)
  if found != part.hash:
    raise BundleError(
      f"{path} does not hold the weights that bundle.json was written with "
      f"(hash {found}, there {part.hash}); copy it again"
    )
  return params


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
  """Raises `BundleError` if parts disagree on a rate or on a number of tokens."""
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
  """Returns the codebooks of a codec as a parameter of a stage."""
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
    params |= own
  return Stage(part.spec, part.config, params)


def _load_detector(folder: Path, manifest: Json) -> Detector | None:
  if "detector" not in manifest["components"]:
    return None
  part = describe("detector", manifest)
  return Detector(part.config, load_part(folder, "detector", part))


def _load_watermark(folder: Path, manifest: Mapping[str, Any]) -> Watermark | None:
  if "watermark" not in manifest["components"]:
    return None
  configs.checked(str, manifest["components"]["watermark"]["token_hash"], "a token hash")
  part = describe("watermark", manifest)
  return Watermark(part.config, load_part(folder, "watermark", part)["communities"])


def read_card(folder: Path) -> str:
  """Returns the text of MODEL_CARD.md; "" if there is none.

  Raises:
    BundleError: the file cannot be read.
  """
  path = folder / CARD
  if not path.exists():
    return ""
  try:
    return _read_limited(path, _LARGEST_CARD).decode("utf-8", errors="replace")
  except (OSError, ValueError) as error:
    raise BundleError(f"{path} cannot be read ({error}); copy or export it again") from error


def _write(bundle: Bundle, folder: Path, storage: Storage) -> None:
  components: JsonDict = {}
  tokenizers: dict[str, Any] = {}
  # The wrapper that resamples for the codec is not stored; loading adds it again.
  parts: dict[str, Any] = {"codec": bundle.codec, "semantic": own_tokenizer(bundle.semantic)}
  for name, tokenizer in parts.items():
    width = _tokenizer_storage(tokenizer, storage, bool(bundle.stages))
    params = tensors.as_stored(tokenizer.params, width)
    content = tensors.encode_tensors(tokenizer.params, width)
    _write_bytes(folder / f"{name}.safetensors", content)
    tokenizers[name] = type(tokenizer)(tokenizer.config, params)
    components[name] = {
      "type": type_name(name, tokenizer),
      "config": configs.to_dict(tokenizer.config),
      "hash": tensors.hash_params(params),
    }
  tokens = token_hash(
    tokenizers["codec"], tokenizer_at(tokenizers["semantic"], bundle.codec.spec.sample_rate)
  )
  for name, stage in bundle.stages.items():
    own, codebooks = dict(stage.params), {}
    if stage.spec.uses_codebooks(stage.config):
      # The codec's file contains them, in a format that preserves them.
      codebooks = {"codebooks": tensors.hash_params({CODEBOOKS: own.pop(CODEBOOKS)})}
    params = tensors.as_stored(own, storage)
    content = tensors.encode_tensors(own, storage)
    _write_bytes(folder / f"{name}_stage.safetensors", content)
    components[f"{name}_stage"] = {
      "spec": configs.to_dict(stage.spec),
      "config": configs.to_dict(stage.config),
      "token_hash": tokens,
      "hash": tensors.hash_params(params),
      **codebooks,
    }
  if bundle.detector is not None:
    params = tensors.as_stored(bundle.detector.params, storage)
    content = tensors.encode_tensors(bundle.detector.params, storage)
    _write_bytes(folder / "detector.safetensors", content)
    components["detector"] = {
      "config": configs.to_dict(bundle.detector.config),
      "hash": tensors.hash_params(params),
    }
  if bundle.watermark is not None:
    own = {"communities": bundle.watermark.communities}
    _write_bytes(folder / "watermark.safetensors", tensors.encode_tensors(own))
    components["watermark"] = {
      "config": configs.to_dict(bundle.watermark.config),
      "token_hash": tokens,
      "hash": tensors.hash_params(own),
    }
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
  content = json.dumps(manifest, indent=2) + "\n"
  _check_readable(bundle.name, content)
  _write_bytes(folder / MANIFEST, content.encode())
  if bundle.model_card:
    _write_bytes(folder / CARD, bundle.model_card.encode())


def _check_readable(name: str, content: str) -> None:
  """Raises `BundleError` if loading would refuse the fields or a configuration of a manifest."""
  try:
    manifest = plain_json.parse(content)
    _check_fields(manifest)
    for component in manifest["components"]:
      describe(component, manifest)
  except ValueError as error:
    raise BundleError(f"{configs.shown(name)} cannot be written as a bundle: {error}") from error


def _tokenizer_storage(
  tokenizer: Codec | ChunkedTokenizer, storage: Storage, has_stages: bool
) -> Storage:
  """Returns the narrowest format from `storage` up that preserves the tokens of all stages."""
  if not has_stages:
    return storage
  narrowest_first = list(reversed(Storage))
  widths = narrowest_first[narrowest_first.index(storage) :]  # float32 holds every weight
  return next(width for width in widths if tensors.survives(tokenizer.token_params, width))


def _write_bytes(path: Path, content: bytes) -> None:
  with open(path, "xb") as file:
    file.write(content)


def tokenizer_classes(name: str, kind: str) -> tuple[type[Any], type[Any]]:
  """Returns the configuration class and the class of a kind of tokenizer.

  Args:
    name: "codec" or "semantic".
    kind: a type from `bundle.json`, such as "soundstream".
  """

  def imported(home: str) -> type[Any]:
    module, _, attribute = home.partition(":")
    return getattr(importlib.import_module(module), attribute)

  config_class, tokenizer_class = map(imported, _TOKENIZERS[name][kind])
  return config_class, tokenizer_class


def type_name(name: str, tokenizer: object) -> str:
  """Returns the name of a tokenizer's kind in `bundle.json`.

  Args:
    name: "codec" or "semantic".
    tokenizer: the tokenizer.

  Raises:
    BundleError: a bundle cannot contain this kind of tokenizer.
  """
  own = _home(type(tokenizer))
  for kind, (_, home) in _TOKENIZERS[name].items():
    if own == home:
      return kind
  raise BundleError(f"a {type(tokenizer).__name__} cannot be stored as the {name} of a bundle")


def _home(kind: type[object]) -> str:
  return f"{kind.__module__}:{kind.__qualname__}"


def check_replaceable(folder: Path) -> None:
  """Raises `BundleError` if `folder` is neither free nor a bundle, or has no parent folder."""
  if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
    raise BundleError(f"{folder} exists and is not a bundle; choose another folder")
  if folder.exists() and not folder.is_dir():
    raise BundleError(f"{folder} is a file; choose a folder")
  if not folder.parent.is_dir():
    raise BundleError(f"cannot write {folder}: the folder {folder.parent} does not exist")


@contextlib.contextmanager
def replaced(folder: Path) -> Generator[Path]:
  """Yields a new folder that replaces `folder` when the block ends without an error.

  Raises:
    BundleError: the folder cannot be written.
  """
  temporary, old = (folder.parent / f".{secrets.token_hex(6)}.tmp" for _ in range(2))
  try:
    temporary.mkdir()
    yield temporary
    if folder.exists():
      os.rename(folder, old)
    os.rename(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
  except OSError as error:
    raise BundleError(f"cannot write {folder}: {error.strerror or error}") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
