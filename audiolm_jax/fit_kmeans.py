"""Clusters a trained semantic encoder's features: the codebook of semantic tokens.

  python -m audiolm_jax.fit_kmeans --encoder_dir=runs/semantic --audio_dir=AUDIO --output=OUT

Writes `semantic.safetensors` (the whole tokenizer: encoder up to the layer, whitening, centroids)
and `report.json` (its configuration and how good the clustering is) into the folder `--output`.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from audiolm_jax import compilation_cache, configs
from audiolm_jax.bundles.tensors import encode_tensors, load_tensors
from audiolm_jax.data.manifest import Clip, SkipLog, clips_of_split, list_clips, read_clip
from audiolm_jax.errors import AudioError, ConfigError, DataError, UserError, run_cli
from audiolm_jax.files import atomic_write
from audiolm_jax.semantic.conformer import truncate_params
from audiolm_jax.semantic.kmeans import KMeansReport, fit_kmeans
from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from audiolm_jax.semantic.w2v_bert import W2vBertConfig

TENSORS_FILE = "semantic.safetensors"
REPORT_FILE = "report.json"

FLAGS = flags.FlagValues()
for _name, _text in {
  "encoder_dir": "MODEL_DIR of a semantic encoder's training run.",
  "audio_dir": "Folder of audio files, searched through.",
  "manifest": "A .jsonl manifest of audio files instead.",
  "output": "Folder to write; made if need be.",
}.items():
  flags.DEFINE_string(_name, None, _text, flag_values=FLAGS)
for _name, _default, _text in (
  ("layer", None, "Encoder block, counted from 1; default: 7/12 into the masked stack."),
  ("num_clusters", 1024, "Semantic tokens."),
  ("step", None, "Checkpoint to take; default the newest."),
  ("seed", 0, "Of the clustering."),
  ("max_frames", 2_000_000, "Past this, a uniform sample of the frames is used."),
  ("chunk_steps", 512, "Tokens per window when long files are tokenized."),
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
  from audiolm_jax.training.checkpoints import load_inference_params

  encoder_dir, output = _given("encoder_dir"), Path(_given("output"))
  if bool(FLAGS.audio_dir) == bool(FLAGS.manifest):
    raise ConfigError("give either --audio_dir or --manifest")
  clips = clips_of_split(list_clips(FLAGS.audio_dir or FLAGS.manifest), FLAGS.split)
  component, config, params = load_inference_params(encoder_dir, FLAGS.step)
  if component != "semantic":
    raise ConfigError(f"{encoder_dir} is a run of {component!r}, not of a semantic encoder")
  tokenizer, report = fit_tokenizer(
    config,
    params,
    clips,
    layer=config.default_layer if FLAGS.layer is None else FLAGS.layer,
    num_clusters=FLAGS.num_clusters,
    seed=FLAGS.seed,
    max_frames=FLAGS.max_frames,
    chunk_steps=FLAGS.chunk_steps,
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
  encoder, dim = config.encoder, config.encoder.dim
  encoder_params = truncate_params(params["encoder"], encoder, layer)
  settings = SemanticTokenizerConfig(encoder, layer, num_clusters, chunk_steps)
  plain = {
    "encoder": encoder_params,
    "mean": np.zeros(dim, np.float32),
    "scale": np.ones(dim, np.float32),
    "centroids": np.zeros((1, dim), np.float32),
  }
  unfitted = SemanticTokenizer(dataclasses.replace(settings, num_clusters=1), plain)
  fitted = fit_kmeans(
    _features(unfitted, clips, max_skipped_fraction), num_clusters, seed, max_frames=max_frames
  )
  params = {
    "encoder": jax.tree.map(np.asarray, encoder_params),
    "mean": fitted.mean,
    "scale": fitted.scale,
    "centroids": fitted.centroids,
  }
  return SemanticTokenizer(settings, params), fitted.report


def save_tokenizer(
  folder: str | os.PathLike[str], tokenizer: SemanticTokenizer, report: KMeansReport
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
    "tokenizer": configs.to_dict(tokenizer.config),
    "clusters": configs.to_dict(report),
  }
  with atomic_write(folder / REPORT_FILE) as file:
    file.write((json.dumps(content, indent=2) + "\n").encode())


def load_tokenizer(folder: str | os.PathLike[str]) -> SemanticTokenizer:
  """What `save_tokenizer` wrote.

  Raises:
    UserError: a file is missing or damaged.
  """
  folder = Path(folder)
  try:
    content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    config = configs.from_dict(SemanticTokenizerConfig, content["tokenizer"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise DataError(
      f"{folder / REPORT_FILE} cannot be read ({error}); run fit_kmeans into {folder} again"
    ) from error
  return SemanticTokenizer(config, load_tensors(folder / TENSORS_FILE))


def _features(
  tokenizer: SemanticTokenizer, clips: Sequence[Clip], max_skipped_fraction: float
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
