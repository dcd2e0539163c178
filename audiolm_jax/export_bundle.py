r"""Exports trained tokenizers, stages and detectors as a bundle, which `sample` and `encode` read.

First export the codec and the semantic tokenizer. They tokenize the corpus that the stages are
trained on:

  python -m audiolm_jax.export_bundle --codec_dir runs/codec --kmeans runs/kmeans \
    --name mine --output runs/tokenizers --storage=int8

Then export the bundle with its stages. The tokenizers are taken from the bundle of the first
export, so that the tokens do not change:

  python -m audiolm_jax.export_bundle --bundle runs/tokenizers --token_store runs/tokens \
    --stage_dir semantic=runs/semantic_stage --stage_dir coarse=runs/coarse_stage \
    --stage_dir fine=runs/fine_stage --name mine --output bundles/mine --storage=int8

Parts given by flags replace the parts of --bundle. If a stage was trained further, give it by
--stage_dir; a new parallel stage gets the sampling settings of the replaced stage. If the decoder
of the codec was trained further, give the codec by --codec_dir. The settings INITIAL_BUNDLE and
CODES_FIXED_STEP=0 in gin_configs/ keep the codes of this codec unchanged:

  python -m audiolm_jax.export_bundle --bundle speech --codec_dir runs/decoder \
    --output bundles/mine --storage=int8

If new tokenizers produce different tokens, export a new bundle without the stages:

  python -m audiolm_jax.export_bundle --bundle speech --kmeans runs/kmeans --tokenizers_only \
    --output runs/tokenizers

With --share NAME, parts that are equal to those of the shipped bundle NAME are not written again:

  python -m audiolm_jax.export_bundle --bundle speech --token_store runs/tokens \
    --stage_dir speech=runs/speech_stage --share speech --output bundles/cleaner --storage=int8

At the end, add a detector of the bundle's samples with --detector_dir (see make_detection_corpus).
The watermark of --bundle (see make_watermark) is kept.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm_jax.core import plain_json
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import DataError, UserError

if TYPE_CHECKING:
  from audiolm_jax.bundles import Bundle
  from audiolm_jax.codec.interface import Codec
  from audiolm_jax.core.modules import Params
  from audiolm_jax.detection.detector import Detector
  from audiolm_jax.lm.stage import Stage, StageSamplingSettings
  from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
  from audiolm_jax.semantic.resampled import ResampledTokenizer

FLAGS = flags.FlagValues()

for _name, _text in {
  "codec_dir": "MODEL_DIR of the codec's training run.",
  "kmeans": "Folder that fit_kmeans wrote: the semantic tokenizer.",
  "bundle": "Name or folder of a bundle that provides all parts that are not given.",
  "detector_dir": "MODEL_DIR of the training run of a detector of the bundle's samples.",
  "token_store": "Folder of the tokens that the stages were trained on.",
  "name": "Name of the bundle; default the name of the output folder.",
  "description": "One sentence.",
  "metadata": "JSON file: training data, licence, metrics.",
  "model_card": "Markdown file that becomes MODEL_CARD.md.",
  "share": "Name of a shipped bundle, from which loading reads parts that are equal to its parts.",
  "output": "The folder to write. An existing bundle is replaced.",
}.items():
  flags.DEFINE_string(_name, None, _text, flag_values=FLAGS)
flags.DEFINE_enum(
  "storage", None, ["float32", "float16", "int8"],
  "Number format of the weights. Tokenizers that stages were trained on do not change.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_multi_string(
  "stage_dir", [], "NAME=DIR: MODEL_DIR of a stage's training run; repeat for each stage.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_list(
  "temperatures", [],
  "STAGE=VALUE,...: default temperatures of stages, instead of the paper's.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  "filling", None,
  "Settings of the sampling of the parallel stage as JSON, instead of those of the stage in "
  "--bundle, or of its training run: "
  'fields of FillingConfig, such as {"passes": [8, 1], "temperatures": [1, 0]}.',
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
  "tokenizers_only",
  False,
  "Leave out stages, detector and watermark of --bundle, with its description, metadata and card.",
  flag_values=FLAGS,
)
flags.DEFINE_bool("float16", False, "Short for --storage=float16.", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
  """Exports the bundle that the flags describe."""
  del argv
  if not FLAGS.output:
    raise UserError("--output is needed: the folder to write")
  model_dirs = _model_dirs()
  if bool(model_dirs) != bool(FLAGS.token_store):
    raise UserError(
      "--token_store and --stage_dir go together: give the stages and the tokens that they were "
      "trained on, or neither"
    )
  if model_dirs and not FLAGS.bundle:
    raise UserError("stages need --bundle: the exported bundle whose tokens they were trained on")
  metadata = _read_metadata()
  card = _read_text(FLAGS.model_card) if FLAGS.model_card else ""
  from audiolm_jax.bundles import Bundle, load_bundle, save_bundle
  from audiolm_jax.sampling.order import in_order

  base = load_bundle(FLAGS.bundle) if FLAGS.bundle else None
  if base and FLAGS.tokenizers_only:
    base = Bundle(base.name, base.codec, base.semantic)
  codec, semantic = _tokenizers(base)
  stages = dict(base.stages) if base else {}
  trained = {name: _stage(name, folder) for name, folder in model_dirs.items()}
  stages = _with_filling(stages | _with_sampling_of(stages, trained))
  bundle = Bundle(
    name=FLAGS.name or Path(FLAGS.output).resolve().name,
    codec=codec,
    semantic=semantic,
    stages=in_order(stages),
    description=FLAGS.description or (base.description if base else ""),
    metadata=metadata or (base.metadata if base else {}),
    model_card=card or (base.model_card if base else ""),
    semantic_rate=_semantic_rate(base),
    temperatures=_temperatures() or (base.temperatures if base else {}),
    detector=_detector() or (base.detector if base else None),
    watermark=base.watermark if base else None,
  )
  if base and (bundle.stages or bundle.watermark) and bundle.token_hash != base.token_hash:
    raise UserError(
      f"stages and watermark use tokens of {FLAGS.bundle}, and the new tokenizers produce others; "
      "train a codec with INITIAL_BUNDLE and CODES_FIXED_STEP=0 to keep its codes, or leave stages "
      "and watermark out with --tokenizers_only"
    )
  if bundle.stages:
    _ = bundle.cascade  # raises an error if the stages do not fit together
  folder = save_bundle(
    bundle,
    FLAGS.output,
    storage=FLAGS.storage or ("float16" if FLAGS.float16 else "float32"),
    shared_with=FLAGS.share or "",
  )
  size = sum(p.stat().st_size for p in folder.iterdir()) / 1e6
  kinds = ["codec", "semantic", *(f"{name}_stage" for name in bundle.stages)]
  kinds += ["detector"] if bundle.detector else []
  kinds += ["watermark"] if bundle.watermark else []
  print(f"{folder}: {', '.join(kinds)}; {size:.1f} MB")


def _tokenizers(
  base: "Bundle | None",
) -> "tuple[Codec, ChunkedTokenizer | ResampledTokenizer]":
  """Returns the codec and the semantic tokenizer; a tokenizer without a flag comes from `base`.

  Raises:
    UserError: a tokenizer has no flag, and `base` is None.
  """
  if not base and not (FLAGS.codec_dir and FLAGS.kmeans):
    raise UserError("--codec_dir and --kmeans are needed, or --bundle to provide a missing one")
  codec: Any = base.codec if base else None
  semantic: Any = base.semantic if base else None
  if FLAGS.codec_dir:
    from audiolm_jax.bundles.components import codec_of

    config, params = _trained("codec", FLAGS.codec_dir)
    codec = codec_of(config.model, params)
  if FLAGS.kmeans:
    from audiolm_jax.trainables.semantic_tokenizer import load_tokenizer

    semantic = load_tokenizer(FLAGS.kmeans)
  from audiolm_jax.semantic.resampled import tokenizer_at

  return codec, tokenizer_at(semantic, codec.spec.sample_rate)


def _stage(name: str, model_dir: str) -> "Stage":
  from audiolm_jax.lm.stage import Stage

  config, params = _trained(f"{name}_stage", model_dir)
  return Stage(config.spec, config.transformer, params)


def _with_sampling_of(
  replaced: "dict[str, Stage]", trained: "dict[str, Stage]"
) -> "dict[str, Stage]":
  """Returns the trained stages with the sampling settings of the stages that they replace.

  A stage keeps its own settings if the settings of the replaced stage have a different type.

  Args:
    replaced: the stages of `--bundle` by name.
    trained: the new stages by name.
  """
  found = dict(trained)
  for name, stage in trained.items():
    old = _sampling_settings(replaced[name]) if name in replaced else None
    if old is not None and type(old) is type(_sampling_settings(stage)):
      found[name] = _with_settings(stage, old)
  return found


def _with_filling(stages: "dict[str, Stage]") -> "dict[str, Stage]":
  """Returns the stages, with the values of --filling in all stages that have sampling settings.

  Raises:
    UserError: --filling is invalid, or no stage has sampling settings.
  """
  from audiolm_jax.core import configs

  if not FLAGS.filling:
    return stages
  values = _json_object(FLAGS.filling, "--filling")
  found = {n: (s, of) for n, s in stages.items() if (of := _sampling_settings(s)) is not None}
  if not found:
    raise UserError("--filling sets the sampling of a parallel stage, and the bundle has none")
  return stages | {
    name: _with_settings(
      stage, configs.from_dict(type(settings), configs.to_dict(settings) | values)
    )
    for name, (stage, settings) in found.items()
  }


def _sampling_settings(stage: "Stage") -> "StageSamplingSettings | None":
  return stage.spec.sampling_settings(stage.config)


def _with_settings(stage: "Stage", settings: "StageSamplingSettings") -> "Stage":
  """Returns the stage with `settings` in place of its sampling settings."""
  config = stage.spec.with_sampling_settings(stage.config, settings)
  return dataclasses.replace(stage, config=config)


def _detector() -> "Detector | None":
  if not FLAGS.detector_dir:
    return None
  from audiolm_jax.detection.detector import Detector

  config, params = _trained("detector", FLAGS.detector_dir)
  return Detector(config.classifier, params)


def _trained(component: str, model_dir: str) -> "tuple[Any, Params]":
  from audiolm_jax.trainables.registry import load_inference_params

  found, config, params = load_inference_params(model_dir)
  if found != component:
    raise UserError(f"{model_dir} is a run of {found!r}; give a run of {component!r}")
  return config, params


def _semantic_rate(base: "Bundle | None") -> float | None:
  """Returns the number of semantic tokens per second after repeats are collapsed.

  The rate is measured on the training split of --token_store, or taken from `base` without
  --token_store. Without `base`, the result is None.

  Raises:
    DataError: the store has no semantic tokens of the training split, or was made by other
      tokenizers.
  """
  if not FLAGS.token_store or base is None:
    return base.semantic_rate if base else None
  from audiolm_jax.core.streams import SEMANTIC
  from audiolm_jax.data.token_store import TokenStore
  from audiolm_jax.lm.tokens import collapse_repeats

  # Raises an error for tokens of other tokenizers. Stages may be trained on an incomplete store.
  store = TokenStore(FLAGS.token_store, base.token_hash, allow_incomplete=True)
  clips = store.clips("train")
  rows = [clip.streams[SEMANTIC] for clip in clips if SEMANTIC in clip.streams]
  steps = sum(len(row) for row in rows)
  collapsed = sum(len(collapse_repeats(row)) for row in rows)
  if not steps:
    raise DataError(f"{FLAGS.token_store} contains no semantic tokens of the split train")
  return collapsed / steps * base.semantic.spec.frame_rate


def _model_dirs() -> dict[str, str]:
  found: dict[str, str] = {}
  for entry in FLAGS.stage_dir:
    name, _, folder = entry.partition("=")
    if not name or not folder:
      raise UserError(f"--stage_dir {entry!r} is not NAME=DIR, such as coarse=runs/coarse_stage")
    if name in found:
      raise UserError(f"--stage_dir names the {name} stage twice; give one run for each stage")
    found[name] = folder
  return found


def _temperatures() -> dict[str, float]:
  found: dict[str, float] = {}
  for entry in FLAGS.temperatures:
    stage, _, value = entry.partition("=")
    try:
      found[stage] = float(value)
    except ValueError:
      raise UserError(f"--temperatures {entry!r} is not STAGE=VALUE, such as coarse=1.0") from None
  return found


def _read_metadata() -> JsonDict:
  if not FLAGS.metadata:
    return {}
  return _json_object(_read_text(FLAGS.metadata), FLAGS.metadata)


def _json_object(text: str, name: str) -> JsonDict:
  try:
    values = plain_json.parse(text)
  except ValueError as error:
    raise UserError(f"{name} is not JSON ({error})") from error
  if not isinstance(values, dict):
    raise UserError(f"{name} must hold one JSON object")
  return values


def _read_text(path: str) -> str:
  try:
    return Path(path).read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {path}: {error}") from error


if __name__ == "__main__":
  run_cli(main, FLAGS)
