"""Makes a semantic tokenizer: k-means clusters the features of a trained encoder."""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles.components import tokenizer_classes, type_name
from audiolm_jax.bundles.tensors import encode_tensors, load_tensors
from audiolm_jax.core import configs, plain_json
from audiolm_jax.core.errors import AudioError, DataError, UserError
from audiolm_jax.core.modules import Params
from audiolm_jax.data.manifest import AudioClip, SkipLog, read_clip
from audiolm_jax.io.files import atomic_write
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer, unwhitened
from audiolm_jax.semantic.conformer import truncate_params
from audiolm_jax.semantic.kmeans import KMeansReport, fit_kmeans
from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from audiolm_jax.trainables.w2v_bert import W2vBertConfig

Tokenizer = TypeVar("Tokenizer", bound=ChunkedTokenizer)

TENSORS_FILE = "semantic.safetensors"
REPORT_FILE = "report.json"


def cluster_features(
  tokenizer: Tokenizer,
  clips: Sequence[AudioClip],
  *,
  num_clusters: int,
  seed: int = 0,
  max_frames: int = 2_000_000,
  max_skipped_fraction: float = 0.01,
) -> tuple[Tokenizer, KMeansReport]:
  """Whitens and clusters the features of clips.

  Args:
    tokenizer: a tokenizer without whitening, such as the result of `unclustered_tokenizer`.
    clips: the clips whose features are clustered.
    num_clusters: number of semantic tokens.
    seed: seed of the clustering.
    max_frames: if there are more frames, a uniform sample of this size is used.
    max_skipped_fraction: share of clips that may be unreadable.

  Returns:
    The tokenizer with whitening and centroids, and statistics of the clustering.

  Raises:
    DataError: too many clips cannot be read, there are fewer frames than clusters, or a feature is
      not finite.
  """
  features = _features(tokenizer, clips, max_skipped_fraction)
  fitted = fit_kmeans(features, num_clusters, seed, max_frames=max_frames)
  params = {
    "encoder": jax.tree.map(np.asarray, tokenizer.params["encoder"]),
    "mean": fitted.mean,
    "scale": fitted.scale,
    "centroids": fitted.centroids,
  }
  config = dataclasses.replace(tokenizer.config, num_clusters=num_clusters)
  return type(tokenizer)(config, params), fitted.report


def unclustered_tokenizer(
  config: W2vBertConfig, params: Params, layer: int, chunk_steps: int
) -> SemanticTokenizer:
  """Returns a tokenizer with one cluster and no whitening; its encoder ends after block `layer`.

  Args:
    config: configuration of the encoder.
    params: parameters of the encoder.
    layer: number of the last encoder block, counted from 1 through both stacks.
    chunk_steps: number of tokens of the chunks in which long clips are processed.
  """
  encoder = truncate_params(params["encoder"], config.encoder, layer)
  centroids = np.zeros((1, config.encoder.dim), np.float32)
  settings = SemanticTokenizerConfig(config.encoder, layer, 1, chunk_steps)
  return SemanticTokenizer(settings, unwhitened(encoder, centroids))


def save_tokenizer(
  folder: str | os.PathLike[str], tokenizer: ChunkedTokenizer, report: KMeansReport
) -> None:
  """Writes the tokenizer and the report to a folder, which is created if missing.

  Raises:
    UserError: the folder cannot be created or is not writable.
  """
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    reason = error.strerror or error
    raise UserError(f"cannot create {folder}: {reason}; give another --output") from error
  with atomic_write(folder / TENSORS_FILE) as file:
    file.write(encode_tensors(tokenizer.params))
  content = {
    "type": type_name("semantic", tokenizer),
    "tokenizer": configs.to_dict(tokenizer.config),
    "clusters": configs.to_dict(report),
  }
  with atomic_write(folder / REPORT_FILE) as file:
    file.write((json.dumps(content, indent=2) + "\n").encode())


def load_tokenizer(folder: str | os.PathLike[str]) -> ChunkedTokenizer:
  """Reads a tokenizer that `save_tokenizer` wrote.

  Raises:
    UserError: a file is missing or damaged.
  """
  folder = Path(folder)
  try:
    content = plain_json.parse((folder / REPORT_FILE).read_bytes())
    # Reports of earlier versions of this package have no type.
    kind = configs.checked(str, content.get("type", "w2v_bert"), "type")
    config_class, tokenizer_class = tokenizer_classes("semantic", kind)
    config = configs.from_dict(config_class, content["tokenizer"])
  except (OSError, ValueError, KeyError, AttributeError) as error:
    raise DataError(
      f"{folder / REPORT_FILE} cannot be read ({error}); run fit_kmeans into {folder} again"
    ) from error
  return tokenizer_class(config, load_tensors(folder / TENSORS_FILE, config.parameter_shapes()))


def _features(
  tokenizer: ChunkedTokenizer, clips: Sequence[AudioClip], max_skipped_fraction: float
) -> Iterator[Float[np.ndarray, "_steps dim"]]:
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
