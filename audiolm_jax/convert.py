r"""Converts the published weights of a codec or semantic encoder to a bundle of tokenizers.

  python -m audiolm_jax.convert --from dac_16khz --input descript/dac_16khz --output runs/dac_16khz
  python -m audiolm_jax.convert --from hubert_base --input HUBERT --layer 9 \
      --kmeans centroids.npz --output runs/hubert_base
  python -m audiolm_jax.convert --from dac_16khz --input descript/dac_16khz --verify

--input is a folder with config.json and model.safetensors from the model's page on the Hugging Face
hub, or the id of the model on the hub, which requires the package huggingface_hub. For lyra_v2,
--input is the folder with the three TFLite files; reading these files requires the extra lyra.

The model replaces one tokenizer, the codec or the semantic tokenizer. The other tokenizer is taken
from --bundle. The stages, the detector and the watermark of --bundle are omitted, because they need
other tokens. A semantic encoder needs --layer and --kmeans, a file with centroids: a semantic token
is the index of the nearest centroid. fit_kmeans computes new centroids. If codec and semantic
tokenizer have different sample rates, the semantic tokenizer resamples its input. Use the result as
--bundle of encode, decode, cache_tokens and export_bundle. docs/pretrained.md lists the models.

--verify writes no files and does not need --kmeans. It checks the names and shapes of the tensors,
and the SHA-256 of the weights if the published value is known. It then compares codes and audio, or
features, with the results of transformers, which must be installed (requirements/pretrained.txt).
transformers does not contain lyra_v2, so for this model --verify checks the files only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError

if TYPE_CHECKING:  # imports JAX
  from audiolm_jax.pretrained.registry import PublishedModel

FLAGS = flags.FlagValues()
for _name, _default, _text in (
  ("from", None, "Name of the published model, such as dac_16khz."),
  ("input", None, "Folder or safetensors file of its weights, or its id on the hub."),
  ("output", None, "The folder to write; an existing bundle is replaced."),
  ("bundle", "speech", "Name or folder of the bundle with the other tokenizer."),
  ("name", None, "Name of the bundle; default: the name of the output folder."),
  ("kmeans", None, "A .npz file with centroids [clusters, dim]; for a semantic encoder."),
  ("accept_licence", None, "The licence of the weights, if it needs your agreement."),
):
  flags.DEFINE_string(_name, _default, _text, flag_values=FLAGS)
flags.DEFINE_integer(
  "layer", None, "Block of the centroids' features, counted from 1.", flag_values=FLAGS
)
flags.DEFINE_bool(
  "verify", False, "Compare the converted model with that of transformers.", flag_values=FLAGS
)
flags.DEFINE_enum(
  "storage", "float32", ["float32", "float16", "int8"],
  "Type of the stored weights; narrower types give other tokens than the published model.",
  flag_values=FLAGS,
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Converts or verifies a published model."""
  del argv
  for name in ("from",) if FLAGS.verify else ("from", "output"):
    if not FLAGS[name].value:
      raise UserError(f"--{name} is required; see --help")
  from audiolm_jax.bundles import Bundle, load_bundle, save_bundle
  from audiolm_jax.pretrained import registry
  from audiolm_jax.semantic.resampled import tokenizer_at

  model = registry.find_model(str(FLAGS["from"].value))
  print(registry.check_terms(model, FLAGS.accept_licence))
  if FLAGS.verify:
    _verify(model)
    return
  settings = _settings(model)
  base = load_bundle(FLAGS.bundle, stages=())
  published = model.read(FLAGS.input or model.hub_id)
  parts = {"codec": base.codec, "semantic": base.semantic}
  parts[model.component] = registry.convert(model, published, **settings)
  parts["semantic"] = tokenizer_at(parts["semantic"], parts["codec"].spec.sample_rate)
  other = next(part for part in parts if part != model.component)
  origin = {
    "name": model.name,
    "source": model.hub_id,
    "licence": model.licence,
    "terms": str(model.terms),
    "credit": model.credit,
    "sha256": published.sha256,
  }
  kept = {k: v for k, v in base.metadata.get("pretrained", {}).items() if k == other}
  bundle = Bundle(
    name=FLAGS.name or Path(FLAGS.output).resolve().name,
    description=f"The {model.component} of {model.name}, the {other} tokenizer of {base.name}.",
    metadata={
      "pretrained": kept | {model.component: origin},
      other: {"bundle": base.name, "licence": base.metadata.get("licence")},
    },
    model_card=_card(origin, model.component, other, base.name, base.metadata.get("licence")),
    **parts,
  )
  folder = save_bundle(bundle, FLAGS.output, storage=FLAGS.storage)
  size = sum(p.stat().st_size for p in folder.iterdir()) / 1e6
  codec, semantic = bundle.codec.spec, bundle.semantic.spec
  print(
    f"{folder}: {model.component} of {model.name}, {other} of {base.name}; {codec.sample_rate} Hz, "
    f"{codec.frame_rate:g} frames per second of {codec.num_quantizers} codes, "
    f"{semantic.frame_rate:g} semantic tokens per second; {size:.1f} MB"
  )


def _verify(model: "PublishedModel") -> None:
  from audiolm_jax.pretrained.verify import verify

  if model.component == "semantic" and FLAGS.layer is None:
    raise UserError(f"{model.name} needs --layer, whose features are compared")
  for sentence in verify(model, model.read(FLAGS.input or model.hub_id), FLAGS.layer):
    print(sentence)


def _settings(model: "PublishedModel") -> dict[str, object]:
  """Returns the settings that the model needs in addition to its weights.

  Raises:
    UserError: `--layer` or `--kmeans` is missing for a semantic encoder or given for a codec.
  """
  given = [name for name in ("layer", "kmeans") if FLAGS[name].value is not None]
  if model.component != "semantic":
    if given:
      raise UserError(f"--{given[0]} is for a semantic encoder, but {model.name} is a codec")
    return {}
  if len(given) < 2:
    raise UserError(
      f"{model.name} needs --layer and --kmeans; docs/pretrained.md lists published centroids, and "
      "fit_kmeans computes new ones"
    )
  from audiolm_jax.pretrained.centroids import read_centroids

  return {"layer": FLAGS.layer, "centroids": read_centroids(FLAGS.kmeans)}


def _card(origin: dict[str, str], component: str, other: str, base: str, licence: object) -> str:
  return (
    f"# {origin['name']}\n\n"
    f"| part | from | licence |\n|---|---|---|\n"
    f"| {component} | {origin['credit']}; {origin['source']}, SHA-256 {origin['sha256']} | "
    f"{origin['licence']} ({origin['terms']}) |\n"
    f"| {other} | bundle {base} | {licence or 'that of the bundle'} |\n"
  )


if __name__ == "__main__":
  run_cli(main, FLAGS)
