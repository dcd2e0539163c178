"""Makes a semantic tokenizer from a trained encoder by clustering its features with k-means."""

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
from audiolm_jax.codec.interface import Codec
from audiolm_jax.core import configs, plain_json
from audiolm_jax.core.errors import AudioError, ConfigError, DataError, UserError
from audiolm_jax.core.modules import Params
from audiolm_jax.data.manifest import AudioClip, SkipLog, read_clip
from audiolm_jax.io.files import atomic_write
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer, unwhitened
from audiolm_jax.semantic.conformer import truncate_params
from audiolm_jax.semantic.kmeans import KMeansReport, fit_centroids, fit_kmeans, sample_frames
from audiolm_jax.semantic.projection import FeatureProjection, fit_projection
from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from audiolm_jax.semantic.unit_encoder import UnitTokenizer
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
  projection: FeatureProjection | None = None,
) -> tuple[Tokenizer, KMeansReport]:
  """Clusters the features of clips.

  Args:
    tokenizer: a tokenizer without whitening, as `unclustered_tokenizer` returns it.
    clips: the audio.
    num_clusters: number of semantic tokens.
    seed: seed of the clustering.
    max_frames: if there are more frames, a uniform sample of this size is used.
    max_skipped_fraction: share of clips that may be unreadable.
    projection: clusters the projected features instead of the whitened ones.

  Returns:
    The tokenizer with whitening or projection, centroids, and statistics of the clustering.

  Raises:
    DataError: too many clips cannot be read, or there are fewer frames than clusters.
  """
  features = _features(tokenizer, clips, max_skipped_fraction)
  params = {"encoder": jax.tree.map(np.asarray, tokenizer.params["encoder"])}
  config = dataclasses.replace(tokenizer.config, num_clusters=num_clusters)
  if projection is None:
    fitted = fit_kmeans(features, num_clusters, seed, max_frames=max_frames)
    params |= {"mean": fitted.mean, "scale": fitted.scale}
  else:
    frames = sample_frames(features, max_frames, seed)
    fitted = fit_centroids((frames - projection.mean) @ projection.matrix, num_clusters, seed)
    params |= {"mean": projection.mean, "scale": np.ones_like(projection.mean)}
    params["projection"] = projection.matrix
    config = dataclasses.replace(config, projected_dim=projection.matrix.shape[1])
  params["centroids"] = fitted.centroids
  return type(tokenizer)(config, params), fitted.report


def acoustic_projection(
  tokenizer: UnitTokenizer,
  codec: Codec,
  clips: Sequence[AudioClip],
  max_skipped_fraction: float = 0.01,
) -> FeatureProjection:
  """Returns the projection of features on the vectors that a codec encodes at the same time.

  Args:
    tokenizer: a tokenizer without whitening.
    codec: gives the targets: the sums of the vectors of the codes of the frames of a step.
    clips: recordings of one speaker, so that the projection does not depend on the voice.
    max_skipped_fraction: share of clips that may be unreadable.

  Raises:
    ConfigError: the codec has another sample rate, or a step does not contain whole frames.
    DataError: too many clips cannot be read, or they are too short.
  """
  spec, steps = codec.spec, tokenizer.spec
  if spec.sample_rate != steps.sample_rate or steps.hop_length % spec.hop_length:
    raise ConfigError(
      f"features every {steps.hop_length} samples at {steps.sample_rate} Hz cannot be projected on "
      f"a codec with frames of {spec.hop_length} samples at {spec.sample_rate} Hz"
    )
  per_step = steps.hop_length // spec.hop_length
  books = np.asarray(codec.codebooks, np.float32)
  levels = np.arange(len(books))

  def pieces() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for waveform in _waveforms(clips, steps.sample_rate, max_skipped_fraction):
      features = tokenizer.features(waveform[None])[0]
      vectors = books[levels, codec.encode(waveform[None])[0]].sum(1)
      whole = min(len(features), len(vectors) // per_step)
      yield features[:whole], vectors[: whole * per_step].reshape(whole, -1)

  return fit_projection(pieces())


def unclustered_tokenizer(
  config: W2vBertConfig, params: Params, layer: int, chunk_steps: int
) -> SemanticTokenizer:
  """Returns a tokenizer with one cluster and no whitening, from an encoder truncated at a layer.

  Args:
    config: configuration of the encoder.
    params: parameters of the encoder.
    layer: encoder block, counted from 1 through both stacks.
    chunk_steps: tokens per window of a long file.
  """
  encoder = truncate_params(params["encoder"], config.encoder, layer)
  centroids = np.zeros((1, config.encoder.dim), np.float32)
  settings = SemanticTokenizerConfig(config.encoder, layer, 1, chunk_steps)
  return SemanticTokenizer(settings, unwhitened(encoder, centroids))


def save_tokenizer(
  folder: str | os.PathLike[str], tokenizer: ChunkedTokenizer, report: KMeansReport
) -> None:
  """Writes the tokenizer and its report to a folder, which is created if missing."""
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
  """Reads what `save_tokenizer` wrote.

  Raises:
    UserError: a file is missing or damaged.
  """
  folder = Path(folder)
  try:
    content = plain_json.parse((folder / REPORT_FILE).read_bytes())
    # Reports of earlier versions have no type.
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
  for waveform in _waveforms(clips, tokenizer.spec.sample_rate, max_skipped_fraction):
    yield tokenizer.features(waveform[None])[0]


def _waveforms(
  clips: Sequence[AudioClip], sample_rate: int, max_skipped_fraction: float
) -> Iterator[Float[np.ndarray, "_samples"]]:
  log = SkipLog(len(clips), max_skipped_fraction)
  for clip in clips:
    try:
      waveform = read_clip(clip, sample_rate)
    except AudioError as error:
      log.skip(clip.id, str(error))
      continue
    yield waveform
  if log.skipped:
    print(log.report())
