"""Fits the codebooks of a residual quantizer to the latents of a trained codec."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from audiolm_jax.chunking import run
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core.errors import AudioError
from audiolm_jax.data.manifest import AudioClip, SkipLog, open_clip
from audiolm_jax.semantic.kmeans import (
  KMeansReport,
  fit_centroids,
  nearest_centroid,
  sample_frames,
)

_BATCH = 8192
# More passes hardly change the quantization error of all levels together.
_REFINING_PASSES = 5


def fit_codebooks(
  codec: ResidualCodec,
  clips: Sequence[AudioClip],
  *,
  num_quantizers: int,
  codebook_size: int,
  seed: int = 0,
  max_frames: int = 500_000,
  max_skipped_fraction: float = 0.01,
) -> tuple[ResidualCodec, list[KMeansReport]]:
  """Fits new codebooks by k-means, level by level.

  The first codebook is fitted to the latents of the clips, and each further codebook to the
  residuals of the previous levels. The latents are not whitened, so k-means minimises the
  quantization error of the latents that the decoder receives.

  Args:
    codec: the codec; its codebooks are not used.
    clips: the clips to encode.
    num_quantizers: number of residual levels.
    codebook_size: entries per level.
    seed: seed of the sample of the frames and of the clustering.
    max_frames: if there are more frames, a uniform sample of this size is used.
    max_skipped_fraction: share of clips that may be unreadable.

  Returns:
    A codec with the same encoder and decoder and the new codebooks, and the statistics of each
    level.

  Raises:
    DataError: too many clips cannot be read, or there are fewer frames than entries per level.
  """
  residual = sample_frames(_latents(codec, clips, max_skipped_fraction), max_frames, seed)
  codebooks, reports = [], []
  for level in range(num_quantizers):
    fitted = fit_centroids(residual, codebook_size, seed + level, refining_passes=_REFINING_PASSES)
    codebooks.append(fitted.centroids)
    reports.append(fitted.report)
    for start in range(0, len(residual), _BATCH):
      batch = residual[start : start + _BATCH]
      batch -= fitted.centroids[np.asarray(nearest_centroid(batch, fitted.centroids))]
  given: Any = codec.config  # a dataclass
  config = dataclasses.replace(given, num_quantizers=num_quantizers, codebook_size=codebook_size)
  return ResidualCodec(config, codec.params | {"codebooks": np.stack(codebooks)}), reports


def _latents(
  codec: ResidualCodec, clips: Sequence[AudioClip], max_skipped_fraction: float
) -> Iterator[Float[np.ndarray, "_frames latent"]]:
  model, log = codec.latent_encoder, SkipLog(len(clips), max_skipped_fraction)
  for clip in clips:
    try:
      (latents,) = run(model, [open_clip(clip, codec.spec.sample_rate)], 1)
    except AudioError as error:
      log.skip(clip.id, str(error))
      continue
    yield latents
  if log.skipped:
    print(log.report())
