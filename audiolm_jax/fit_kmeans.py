"""Clusters a trained semantic encoder's features: the codebook of semantic tokens.

  python -m audiolm_jax.fit_kmeans --encoder_dir=runs/semantic --audio_dir=AUDIO --output=OUT
  python -m audiolm_jax.fit_kmeans --from=hubert_base --layer=9 --audio_dir=AUDIO --output=OUT

The encoder is one of your own runs, or a published one; --input is then where its weights are, as
for convert.
Writes `semantic.safetensors` (the whole tokenizer: encoder up to the layer, whitening, centroids)
and `report.json` (its configuration and how good the clustering is) into the folder `--output`.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles.folder import tokenizer_classes, type_name
from audiolm_jax.bundles.tensors import encode_tensors, load_tensors
from audiolm_jax.core import compilation_cache, configs
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import AudioError, ConfigError, DataError, UserError
from audiolm_jax.data.manifest import Clip, SkipLog, clips_of_split, list_clips, read_clip
from audiolm_jax.io.files import atomic_write
from audiolm_jax.semantic.conformer import truncate_params
from audiolm_jax.semantic.kmeans import KMeansReport, fit_kmeans
from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from audiolm_jax.semantic.w2v_bert import W2vBertConfig
from audiolm_jax.semantic.windowed_tokenizer import WindowedTokenizer

Tokenizer = TypeVar("Tokenizer", bound=WindowedTokenizer)

TENSORS_FILE = "semantic.safetensors"
REPORT_FILE = "report.json"

FLAGS = flags.FlagValues()
for _name, _text in {
  "encoder_dir": "MODEL_DIR of a semantic encoder's training run.",
  "from": "Name of a published encoder instead, such as hubert_base.",
  "input": "Folder or safetensors file of its weights, or its id on the hub.",
  "audio_dir": "Folder of audio files, searched through.",
  "manifest": "A .jsonl manifest of audio files instead.",
  "output": "Folder to write; made if need be.",
  "accept_licence": "The licence of a published encoder's weights, where it must be agreed to.",
}.items():
  flags.DEFINE_string(_name, None, _text, flag_values=FLAGS)
for _name, _default, _text in (
  (
    "layer",
    None,
    "Encoder block, counted from 1; default of your own: 7/12 into the masked stack.",
  ),
  ("num_clusters", 1024, "Semantic tokens."),
  ("step", None, "Checkpoint to take; default the newest."),
  ("seed", 0, "Of the clustering."),
  ("max_frames", 2_000_000, "Past this, a uniform sample of the frames is used."),
  ("chunk_steps", 512, "Tokens per window when long files are tokenized."),
  ("steps_per_token", 1, "Of a published encoder, those whose mean a token is; 2 halves its rate."),
):
  flags.DEFINE_integer(_name, _default, _text, flag_values=FLAGS)
flags.DEFINE_string("split", "train", "Clips of this split are used.", flag_values=FLAGS)
flags.DEFINE_float(
  "max_skipped_fraction", 0.01, "Share of clips that may be unreadable.", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
  """Fits, writes and reports."""
  del argv
  compilation_cache.enable()
  output = Path(_given("output"))
  if bool(FLAGS.audio_dir) == bool(FLAGS.manifest):
    raise ConfigError("give either --audio_dir or --manifest")
  clips = clips_of_split(list_clips(FLAGS.audio_dir or FLAGS.manifest), FLAGS.split)
  tokenizer, report = _fitted(
    _published() if FLAGS["from"].value else _own(),
    clips,
    num_clusters=FLAGS.num_clusters,
    seed=FLAGS.seed,
    max_frames=FLAGS.max_frames,
    max_skipped_fraction=FLAGS.max_skipped_fraction,
  )
  save_tokenizer(output, tokenizer, report)
  print(report)
  print(f"wrote {output / TENSORS_FILE} and {output / REPORT_FILE}")


def fit_tokenizer(
  config: W2vBertConfig,
  params: dict[str, Any],
  clips: Sequence[Clip],
  *,
  layer: int,
  num_clusters: int,
  seed: int = 0,
  max_frames: int = 2_000_000,
  chunk_steps: int = 512,
  max_skipped_fraction: float = 0.01,
) -> tuple[SemanticTokenizer, KMeansReport]:
  """A tokenizer from a pre-trained model and the clips whose features it shall cluster.

  Args:
    params: the pre-trained model's, plain arrays.
    layer: encoder block, counted from 1 through both stacks.
  Raises:
    DataError: too many clips cannot be read, or there are fewer frames than clusters.
  """
  return _fitted(
    _unfitted(config, params, layer, chunk_steps),
    clips,
    num_clusters=num_clusters,
    seed=seed,
    max_frames=max_frames,
    max_skipped_fraction=max_skipped_fraction,
  )


def save_tokenizer(
  folder: str | os.PathLike[str], tokenizer: WindowedTokenizer, report: KMeansReport
) -> None:
  """Writes the tokenizer and its report into `folder`."""
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    reason = error.strerror or error
    raise UserError(f"cannot make {folder}: {reason}; give another --output") from error
  with atomic_write(folder / TENSORS_FILE) as file:
    file.write(encode_tensors(tokenizer.params))
  content = {
    "type": type_name("semantic", tokenizer),
    "tokenizer": configs.to_dict(tokenizer.config),
    "clusters": configs.to_dict(report),
  }
  with atomic_write(folder / REPORT_FILE) as file:
    file.write((json.dumps(content, indent=2) + "\n").encode())


def load_tokenizer(folder: str | os.PathLike[str]) -> WindowedTokenizer:
  """What `save_tokenizer` wrote.

  Raises:
    UserError: a file is missing or damaged.
  """
  folder = Path(folder)
  try:
    content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    # Reports of earlier versions name no type.
    config_class, tokenizer_class = tokenizer_classes("semantic", content.get("type", "w2v_bert"))
    config = configs.from_dict(config_class, content["tokenizer"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise DataError(
      f"{folder / REPORT_FILE} cannot be read ({error}); run fit_kmeans into {folder} again"
    ) from error
  return tokenizer_class(config, load_tensors(folder / TENSORS_FILE))


def _fitted(
  unfitted: Tokenizer,
  clips: Sequence[Clip],
  *,
  num_clusters: int,
  seed: int,
  max_frames: int,
  max_skipped_fraction: float,
) -> tuple[Tokenizer, KMeansReport]:
  """`unfitted` with the clusters of its features; they are not whitened yet."""
  fitted = fit_kmeans(
    _features(unfitted, clips, max_skipped_fraction), num_clusters, seed, max_frames=max_frames
  )
  params = {
    "encoder": jax.tree.map(np.asarray, unfitted.params["encoder"]),
    "mean": fitted.mean,
    "scale": fitted.scale,
    "centroids": fitted.centroids,
  }
  config = dataclasses.replace(unfitted.config, num_clusters=num_clusters)
  return type(unfitted)(config, params), fitted.report


def _own() -> SemanticTokenizer:
  """The encoder of a run, not yet clustered."""
  from audiolm_jax.training.checkpoints import load_inference_params

  encoder_dir = _given("encoder_dir")
  component, config, params = load_inference_params(encoder_dir, FLAGS.step)
  if component != "semantic":
    raise ConfigError(f"{encoder_dir} is a run of {component!r}, not of a semantic encoder")
  layer = config.default_layer if FLAGS.layer is None else FLAGS.layer
  return _unfitted(config, params, layer, FLAGS.chunk_steps)


def _unfitted(
  config: W2vBertConfig, params: dict[str, Any], layer: int, chunk_steps: int
) -> SemanticTokenizer:
  dim = config.encoder.dim
  plain = {
    "encoder": truncate_params(params["encoder"], config.encoder, layer),
    "mean": np.zeros(dim, np.float32),
    "scale": np.ones(dim, np.float32),
    "centroids": np.zeros((1, dim), np.float32),
  }
  settings = SemanticTokenizerConfig(config.encoder, layer, 1, chunk_steps)
  return SemanticTokenizer(settings, plain)


def _published() -> WindowedTokenizer:
  """A published encoder, not yet clustered."""
  from audiolm_jax.pretrained import registry
  from audiolm_jax.pretrained.weights import read_published

  name = _given("from")
  model = registry.find_model(name)
  if FLAGS.encoder_dir:
    raise ConfigError("give either --encoder_dir or --from")
  if model.component != "semantic":
    raise ConfigError(f"{name} is a {model.component}, not a semantic encoder")
  if FLAGS.layer is None:
    raise ConfigError(f"{name} needs --layer, counted from 1")
  print(registry.check_terms(model, FLAGS.accept_licence))
  published = read_published(FLAGS.input or model.hub_id)
  settings = {"layer": FLAGS.layer, "steps_per_token": FLAGS.steps_per_token}
  return registry.convert(model, published, **settings)


def _features(
  tokenizer: WindowedTokenizer, clips: Sequence[Clip], max_skipped_fraction: float
) -> Iterator[Float[np.ndarray, "steps dim"]]:
  log = SkipLog(len(clips), max_skipped_fraction)
  for clip in clips:
    try:
      waveform = read_clip(clip, tokenizer.spec.sample_rate)
    except AudioError as error:
      log.skip(clip.id, str(error))
      continue
    yield tokenizer.features(waveform[None])[0]
  if log.skipped:
    print(log.report())


def _given(name: str) -> str:
  value = FLAGS[name].value
  if not value:
    raise ConfigError(f"--{name} is required")
  return value


if __name__ == "__main__":
  run_cli(main, FLAGS)
