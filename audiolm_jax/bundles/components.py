"""The components of a bundle: codec, semantic tokenizer, stages, detector and watermark."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from audiolm_jax.bundles import tensors
from audiolm_jax.bundles.manifest import shipped_folder
from audiolm_jax.codec.interface import Codec
from audiolm_jax.codec.registry import CODECS
from audiolm_jax.core import configs
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import BundleError
from audiolm_jax.core.imports import imported
from audiolm_jax.core.modules import Params
from audiolm_jax.core.shapes import Shapes
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.detection.watermark import WatermarkConfig
from audiolm_jax.lm.stage import CODEBOOKS
from audiolm_jax.sampling import registry

# Configuration class and class of each kind of tokenizer. A module is imported when a bundle needs
# its class.
_SEMANTIC, _PRETRAINED = "audiolm_jax.semantic", "audiolm_jax.pretrained"
_RESIDUAL = "audiolm_jax.codec.residual_codec:ResidualCodec"
TOKENIZERS = {
  "codec": {
    **{kind: (config, _RESIDUAL) for kind, config in CODECS.items()},
    "dac": (f"{_PRETRAINED}.dac:DacConfig", f"{_PRETRAINED}.dac:DacCodec"),
    "encodec": (f"{_PRETRAINED}.encodec_layers:EncodecConfig", _RESIDUAL),
    "mimi": (f"{_PRETRAINED}.mimi_layers:MimiConfig", f"{_PRETRAINED}.mimi:MimiCodec"),
    "lyra": (f"{_PRETRAINED}.lyra_layers:LyraConfig", _RESIDUAL),
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


class Component(NamedTuple):
  """A component as `bundle.json` describes it.

  Attributes:
    config: configuration of the component.
    spec: spec of a stage; None for other components.
    kind: kind of a tokenizer, such as "soundstream"; "" for other components.
    shapes: shapes of the parameters in the component's file.
    hash: hash of these parameters.
    bundle: name of the shipped bundle whose folder has the file; "" for the bundle's own folder.
    types: accepted types of the arrays in the file.
  """

  config: Any
  spec: Any
  kind: str
  shapes: Shapes
  hash: str
  bundle: str
  types: Sequence[str] = tensors.FLOATS


def describe(name: str, manifest: Json) -> Component:
  """Returns the description of a component from a manifest of the current format.

  Raises:
    BundleError: the component or its type is unknown.
    ConfigError: the hash, the bundle, the type, the spec or the configuration of the component is
      not valid.
    KeyError: the manifest lacks a field.
  """
  entry = manifest["components"][name]
  expected_hash = configs.checked(str, entry["hash"], f"the hash of {name}")
  bundle = configs.checked(str, entry.get("bundle", ""), f"the bundle of {name}")
  if name in TOKENIZERS:
    known, kind = TOKENIZERS[name], configs.checked(str, entry["type"], f"the type of {name}")
    if kind not in known:
      raise BundleError(f"{name} of unknown type {configs.shown(kind)}; known: {', '.join(known)}")
    config = configs.from_dict(tokenizer_classes(name, kind)[0], entry["config"])
    return Component(config, None, kind, config.parameter_shapes(), expected_hash, bundle)
  if name == "detector":
    config = configs.from_dict(ClassifierConfig, entry["config"])
    return Component(config, None, "", config.parameter_shapes(), expected_hash, bundle)
  if name == "watermark":
    config = configs.from_dict(WatermarkConfig, entry["config"])
    return Component(config, None, "", config.parameter_shapes(), expected_hash, bundle, ("U16",))
  kinds = {f"{stage['name']}_stage": stage["kind"] for stage in manifest["stages"]}
  if name not in kinds:
    raise BundleError(f"a component {name!r} that is no part of a bundle of this version")
  spec_class = registry.spec_class({"kind": kinds[name]})
  spec = configs.from_dict(spec_class, entry["spec"])
  config = configs.from_dict(spec_class.config_class(), entry["config"])
  spec.check_config(config)
  shapes = spec.parameter_shapes(config)
  if spec.uses_codebooks(config):
    del shapes[CODEBOOKS]  # the codec's file contains the codebooks
  return Component(config, spec, "", shapes, expected_hash, bundle)


def component_path(folder: Path, name: str, bundle: str) -> Path:
  """Returns the path of the file that contains the weights of a component.

  Args:
    folder: folder of the bundle that has the component.
    name: name of the component.
    bundle: name of the shipped bundle whose folder has the file; "" for `folder`.

  Raises:
    BundleError: no bundle of this name ships with the package.
  """
  return (shipped_folder(bundle) if bundle else folder) / f"{name}.safetensors"


def load_part(folder: Path, name: str, component: Component) -> Params:
  """Returns the parameters of a component.

  Raises:
    BundleError: the file is missing or damaged, or its weights do not match `bundle.json`.
  """
  path = component_path(folder, name, component.bundle)
  params = tensors.load_tensors(path, component.shapes, component.types)
  found = tensors.hash_params(params)
  if found != component.hash:
    raise BundleError(
      f"{path} does not hold the weights that bundle.json was written with "
      f"(hash {found}, there {component.hash}); copy it again"
    )
  return params


def tokenizer_classes(name: str, kind: str) -> tuple[type[Any], type[Any]]:
  """Returns the configuration class and the tokenizer class for a kind of tokenizer.

  Args:
    name: "codec" or "semantic".
    kind: kind of the tokenizer in `bundle.json`, such as "soundstream".
  """
  config_class, tokenizer_class = map(imported, TOKENIZERS[name][kind])
  return config_class, tokenizer_class


def type_name(name: str, tokenizer: Any) -> str:
  """Returns the name of a tokenizer's kind in `bundle.json`.

  Args:
    name: "codec" or "semantic".
    tokenizer: the tokenizer.

  Raises:
    BundleError: a bundle cannot contain this kind of tokenizer.
  """
  own = (_home(tokenizer.config), _home(tokenizer))
  for kind, homes in TOKENIZERS[name].items():
    if own == homes:
      return kind
  raise BundleError(f"a {type(tokenizer).__name__} cannot be stored as the {name} of a bundle")


def codec_of(config: object, params: Params) -> Codec:
  """Returns the codec with this configuration and these parameters.

  Raises:
    BundleError: `TOKENIZERS` has no codec with the class of the configuration.
  """
  own = _home(config)
  for kind, (home, _) in TOKENIZERS["codec"].items():
    if own == home:
      _, codec_class = tokenizer_classes("codec", kind)
      return codec_class(config, params)
  raise BundleError(f"no codec that a bundle can contain has a {type(config).__name__}")


def _home(value: object) -> str:
  """Returns the module and name of a value's class as `module:class`, as in `TOKENIZERS`."""
  kind = type(value)
  return f"{kind.__module__}:{kind.__qualname__}"
