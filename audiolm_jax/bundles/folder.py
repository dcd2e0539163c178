"""Saves and loads bundles: `bundle.json`, one safetensors file per part, `MODEL_CARD.md`."""

import contextlib
import importlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from audiolm_jax.bundles import migration, tensors
from audiolm_jax.bundles.bundle import Bundle, token_hash
from audiolm_jax.bundles.migration import FORMAT_VERSION
from audiolm_jax.bundles.tensors import Storage
from audiolm_jax.core import configs
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import BundleError, ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.streams import differences
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.detection.detector import Detector
from audiolm_jax.lm.stage import CODEBOOKS, Stage, StageSpec
from audiolm_jax.sampling import registry
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


def codec_of(config: Any, params: Params) -> Any:
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
  manifest = read_manifest(folder)
  try:
    return _assemble(folder, migration.migrate(folder, manifest), stages)
  except (KeyError, TypeError, AttributeError) as error:
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
  """
  folder = Path(folder)
  _check_fit(bundle)
  _check_temperatures(bundle.name, bundle.temperatures, bundle.stages)
  check_replaceable(folder)
  with replaced(folder) as temporary:
    _write(bundle, temporary, Storage(storage))
  return folder


def find_folder(name_or_dir: str | os.PathLike[str]) -> Path:
  """Returns the folder of a shipped bundle by its name, or the given folder of a bundle.

  Raises:
    BundleError: the bundle does not exist.
  """
  shipped = list_bundles()
  if str(name_or_dir) in shipped:
    return _SHIPPED / str(name_or_dir)
  folder = Path(name_or_dir)
  if not folder.is_dir():
    known = f"the shipped bundles are {', '.join(shipped)}" if shipped else "no bundle is shipped"
    raise BundleError(f"no bundle {str(name_or_dir)!r}: it is not a folder, and {known}")
  if not (folder / MANIFEST).is_file():
    raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}")
  return folder


def read_manifest(folder: Path) -> JsonDict:
  """Returns the content of `bundle.json`, of any format version.

  Raises:
    BundleError: the file cannot be read or is not a JSON object.
  """
  path = folder / MANIFEST
  try:
    manifest = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise BundleError(f"{path} cannot be read ({error}); copy or export it again") from error
  if not isinstance(manifest, dict):
    raise BundleError(f"{path} does not describe a bundle; copy or export it again")
  return manifest


def _assemble(folder: Path, manifest: JsonDict, wanted: Collection[str] | None) -> Bundle:
  components = manifest["components"]
  codec = _load_tokenizer(folder, "codec", components)
  semantic = tokenizer_at(_load_tokenizer(folder, "semantic", components), codec.spec.sample_rate)
  kinds = {entry["name"]: entry["kind"] for entry in manifest["stages"]}
  names = list(kinds)
  for name in wanted or ():
    if name not in names:
      raise BundleError(f"{folder} has no {name} stage; it has {', '.join(names) or 'none'}")
  _check_temperatures(folder.name, manifest["temperatures"], names)
  bundle = Bundle(
    name=manifest["name"],
    codec=codec,
    semantic=semantic,
    stages={
      name: _load_stage(folder, name, kind, components, codec)
      for name, kind in kinds.items()
      if wanted is None or name in wanted
    },
    semantic_rate=manifest["semantic_rate"],
    temperatures=manifest["temperatures"],
    detector=_load_detector(folder, components),
    description=manifest["description"],
    metadata=manifest["metadata"],
    model_card=_read_card(folder),
    path=folder,
  )
  if bundle.token_hash != manifest["token_hash"]:
    raise BundleError(
      f"{folder}: bundle.json has token hash {manifest['token_hash']}, its tokenizers have "
      f"{bundle.token_hash}; copy or export it again"
    )
  for name in names:
    trained_on = components[f"{name}_stage"]["token_hash"]
    if trained_on != bundle.token_hash:
      raise BundleError(
        f"{folder}: the {name} stage was trained on other tokens (token hash {trained_on}) than "
        f"its tokenizers produce ({bundle.token_hash}); train it on tokens of these tokenizers"
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


def _codebooks_of(codec: Any, spec: StageSpec, config: Any, what: str) -> dict[str, Any]:
  """Returns the codebooks of a codec as a parameter of a stage."""
  try:
    return {CODEBOOKS: spec.codebooks(config, codec.codebooks)}
  except ConfigError as error:
    raise BundleError(f"{what} does not fit the codec: {error}") from error


def _load_tokenizer(folder: Path, name: str, components: Json) -> Any:
  entry = components[name]
  kinds = _TOKENIZERS[name]
  if entry["type"] not in kinds:
    raise BundleError(
      f"{folder}: {name} of unknown type {entry['type']!r}; known: {', '.join(kinds)}"
    )
  config_class, tokenizer_class = tokenizer_classes(name, entry["type"])
  config = configs.from_dict(config_class, entry["config"])
  return tokenizer_class(config, _load_params(folder / f"{name}.safetensors", entry["hash"]))


def _load_stage(folder: Path, name: str, kind: str, components: Json, codec: Any) -> Stage:
  entry = components[f"{name}_stage"]
  spec_class = registry.spec_class({"kind": kind})
  spec = configs.from_dict(spec_class, entry["spec"])
  config = configs.from_dict(spec_class.config_class(), entry["config"])
  params = _load_params(folder / f"{name}_stage.safetensors", entry["hash"])
  if spec.uses_codebooks(config):
    own = _codebooks_of(codec, spec, config, f"{folder}: the {name} stage")
    if tensors.hash_params(own) != entry["codebooks"]:
      raise BundleError(
        f"{folder}: the {name} stage was trained with other codebooks than its codec has; copy or "
        "export it again"
      )
    params |= own
  return Stage(spec, config, params)


def _load_detector(folder: Path, components: Json) -> Detector | None:
  if "detector" not in components:
    return None
  entry = components["detector"]
  config = configs.from_dict(ClassifierConfig, entry["config"])
  return Detector(config, _load_params(folder / "detector.safetensors", entry["hash"]))


def _load_params(path: Path, expected_hash: str) -> Params:
  params = tensors.load_tensors(path)
  if tensors.hash_params(params) != expected_hash:
    raise BundleError(
      f"{path} does not hold the weights that bundle.json was written with; copy it again"
    )
  return params


def _read_card(folder: Path) -> str:
  path = folder / CARD
  return path.read_text(encoding="utf-8") if path.is_file() else ""


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
  _write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
  if bundle.model_card:
    _write_bytes(folder / CARD, bundle.model_card.encode())


def _tokenizer_storage(tokenizer: Any, storage: Storage, has_stages: bool) -> Storage:
  """Returns the narrowest format from `storage` up that preserves the tokens of all stages."""
  if not has_stages:
    return storage
  narrowest_first = list(reversed(Storage))
  widths = narrowest_first[narrowest_first.index(storage) :]  # float32 holds every weight
  return next(width for width in widths if tensors.survives(tokenizer.token_params, width))


def _write_bytes(path: Path, content: bytes) -> None:
  with open(path, "xb") as file:
    file.write(content)


def tokenizer_classes(name: str, kind: str) -> tuple[type, type]:
  """Returns the configuration class and the class of a kind of tokenizer.

  Args:
    name: "codec" or "semantic".
    kind: a type from `bundle.json`, such as "soundstream".
  """

  def imported(home: str) -> type:
    module, _, attribute = home.partition(":")
    return getattr(importlib.import_module(module), attribute)

  config_class, tokenizer_class = map(imported, _TOKENIZERS[name][kind])
  return config_class, tokenizer_class


def type_name(name: str, tokenizer: Any) -> str:
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


def _home(kind: type) -> str:
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
def replaced(folder: Path) -> Iterator[Path]:
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
