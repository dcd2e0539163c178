"""Converts manifests (`bundle.json`) of earlier formats to the current format.

format  description
1       the token hash covers all weights of the tokenizers, including the codec's decoder;
        the entries of the tokenizers have no hash
2       the token hash excludes the decoder; each component has a hash of its weights
3       the stages are listed in sampling order, each with its kind
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from audiolm_jax.bundles import tensors
from audiolm_jax.bundles.bundle import token_hash
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.core import configs
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import BundleError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.shapes import Shapes
from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig

FORMAT_VERSION = 3


def migrate(folder: Path, manifest: JsonDict) -> JsonDict:
  """Returns the manifest in the format of `FORMAT_VERSION`. The files do not change.

  Args:
    folder: the bundle's folder. For format 1, its weights are compared with the token hash in the
      manifest, and then the missing hashes are computed from the weights.
    manifest: the content of `bundle.json`.

  Raises:
    BundleError: the version is unknown or missing, the entry of a stage is not valid in this
      version, or, in format 1, the file of a tokenizer is missing or damaged or does not match
      the manifest.
    ConfigError: the configuration of a tokenizer of format 1 is not valid.
    KeyError: the manifest lacks a field.
  """
  version = manifest.get("format_version")
  while version != FORMAT_VERSION:
    if type(version) is not int or version not in _STEPS:
      raise BundleError(
        f"{folder / 'bundle.json'} has format version {configs.shown(version)}, this program reads "
        f"1 to {FORMAT_VERSION}; export the bundle again, or update the program"
      )
    _check_stages(folder, manifest, str)
    manifest = _STEPS[version](folder, copy.deepcopy(manifest))
    version = manifest["format_version"]
  _check_stages(folder, manifest, Mapping)
  return manifest


def _check_stages(folder: Path, manifest: Json, kind: type) -> None:
  """Raises `BundleError` if the entry of a stage is not of the type `kind`."""
  for stage in manifest["stages"]:
    if not isinstance(stage, kind):
      raise BundleError(
        f"{folder / 'bundle.json'} has the stage {configs.shown(stage)}, which its format version "
        f"{manifest['format_version']} describes otherwise; export the bundle again"
      )


def _from_1(folder: Path, manifest: JsonDict) -> JsonDict:
  components = manifest["components"]

  def params(name: str, shapes: Shapes) -> Params:
    return tensors.load_tensors(folder / f"{name}.safetensors", shapes)

  config = configs.from_dict(SoundStreamConfig, components["codec"]["config"])
  codec = ResidualCodec(config, params("codec", config.parameter_shapes()))
  config = configs.from_dict(SemanticTokenizerConfig, components["semantic"]["config"])
  semantic = SemanticTokenizer(config, params("semantic", config.parameter_shapes()))
  old = _token_hash_1(codec, semantic)
  if old != manifest["token_hash"]:
    raise BundleError(
      f"{folder}: codec.safetensors or semantic.safetensors does not hold the weights that "
      f"bundle.json was written with (token hash {manifest['token_hash']}, theirs {old}); "
      "copy it again"
    )
  components["codec"]["hash"] = tensors.hash_params(codec.params)
  components["semantic"]["hash"] = tensors.hash_params(semantic.params)
  manifest["token_hash"] = token_hash(codec, semantic)
  for name in manifest["stages"]:
    stage = components[f"{name}_stage"]
    if stage["token_hash"] == old:  # loading rejects stages with any other hash
      stage["token_hash"] = manifest["token_hash"]
  manifest["format_version"] = 2
  return manifest


def _from_2(folder: Path, manifest: JsonDict) -> JsonDict:
  del folder
  stages = [{"name": name, "kind": "autoregressive"} for name in manifest["stages"]]
  # Format 2 allowed temperatures for stages of the paper that the bundle does not contain.
  absent = {"semantic", "coarse", "fine"} - {stage["name"] for stage in stages}
  temperatures = {n: t for n, t in manifest.get("temperatures", {}).items() if n not in absent}
  return manifest | {"stages": stages, "temperatures": temperatures, "format_version": 3}


def _token_hash_1(codec: ResidualCodec, semantic: SemanticTokenizer) -> str:
  parts = [
    (tensors.hash_params(tokenizer.params), configs.to_dict(tokenizer.spec))
    for tokenizer in (codec, semantic)
  ]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


_STEPS: dict[int, Callable[[Path, JsonDict], JsonDict]] = {1: _from_1, 2: _from_2}
