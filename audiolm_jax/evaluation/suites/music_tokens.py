"""Measures whether semantic tokens depend on the harmony, the onsets and the pitch of music."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.clips import EvalClip, new_pieces, recording_of
from audiolm_jax.evaluation.explained import MusicFrames, explained_share, music_frames
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult
from audiolm_jax.evaluation.tokens import Tokenize
from audiolm_jax.semantic.kmeans import fit_kmeans, nearest_centroid
from audiolm_jax.semantic.spec import SemanticSpec

TOKENS, RAW = "tokens", "clusters of raw constant-Q frames"
CHROMA = Metric("chroma_explained", "share of the variance of chroma that is explained")
ONSET = Metric("onset_explained", "share of the variance of onset strength that is explained")
HEIGHT = Metric("height_explained", "share of the variance of pitch height that is explained")
_FOLDS = 4


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the bundle's tokenizer on held-out pieces."""
  spec = bundle.semantic.spec
  pieces = new_pieces(options, spec.sample_rate, options.max_clips, least_seconds=2.0)
  return music_tokens_suite(bundle.semantic.tokenize_long, spec, pieces, seed=options.seed)


def music_tokens_suite(
  tokenize: Tokenize, spec: SemanticSpec, pieces: Sequence[EvalClip], seed: int = 0
) -> SuiteResult:
  """Measures how much of chroma, onset strength and pitch height the semantic tokens explain.

  For comparison, the suite also measures how much clusters of constant-Q frames explain. The number
  of clusters is the size of the semantic vocabulary.

  Args:
    tokenize: function that returns the semantic tokens of a waveform.
    spec: sample rate, hop and vocabulary size of the semantic tokens.
    pieces: pieces of at least two recordings. The tokens of silence are ignored.
    seed: seed of the clustering.

  Raises:
    DataError: there are fewer than two recordings, or fewer tokens than clusters.
  """
  recordings = [recording_of(piece) for piece in pieces]
  names = sorted(set(recordings))
  if len(names) < 2:
    raise DataError("the suite music_tokens needs pieces of two recordings; add recordings")
  folds = np.array([names.index(name) % min(_FOLDS, len(names)) for name in recordings])
  tokens: list[Int[np.ndarray, "_"]] = []
  frames: list[MusicFrames] = []
  for piece in pieces:
    of_piece = np.asarray(tokenize(piece.waveform))
    found = music_frames(piece.waveform, spec.sample_rate, spec.hop_length)
    steps = min(len(of_piece), len(found.sounding))  # tokenizers may round up
    found = found.of(slice(steps))
    frames.append(found.of(found.sounding))
    tokens.append(of_piece[:steps][found.sounding])
  raw = _clusters([f.constant_q for f in frames], spec.num_clusters, seed)
  rows = []
  for metric, name in ((CHROMA, "chroma"), (ONSET, "onset"), (HEIGHT, "height")):
    features = [getattr(f, name) for f in frames]
    explained = explained_share(tokens, features, folds)
    rows.append(Row(metric, explained, TOKENS, floor=0.35, aim=0.6))
    rows.append(Row(metric, explained_share(raw, features, folds), RAW))
  return SuiteResult(rows, {"pieces": [piece.id for piece in pieces], "recordings": len(names)})


def _clusters(
  features: Sequence[Float[np.ndarray, "_ dim"]], num_clusters: int, seed: int
) -> list[Int[np.ndarray, "_"]]:
  """Fits k-means to the features of all pieces, and returns the cluster of each row."""
  fitted = fit_kmeans([f.astype(np.float32) for f in features], num_clusters, seed)
  return [
    np.asarray(nearest_centroid((f - fitted.mean) / fitted.scale, fitted.centroids))
    for f in features
  ]
