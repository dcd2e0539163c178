"""Whitening and k-means on the device; the centroids of features define the semantic tokens."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.keys import new_key

_LEAST_SHARE = 0.02  # a centroid with less usage than this share of the mean usage is moved
# Duplicates are nearer to each other than this share of the median distance between neighbours.
_DUPLICATE = 1e-3
_FRAMES_PER_SEED = 16  # number of frames per centroid from which k-means++ draws
_CANDIDATES = 8  # number of centroids whose distances are computed exactly


@dataclasses.dataclass(frozen=True)
class KMeansReport:
  """Statistics of a clustering.

  Attributes:
    num_frames: number of frames that were clustered.
    num_clusters: number of centroids.
    inertia: mean squared distance to the nearest centroid in each pass; the last value belongs to
      the returned centroids. For whitened features, the inertia divided by the dimension is the
      unexplained share of the variance.
    usage: number of frames in each cluster.
    dead: number of clusters without a frame.
    duplicate: number of centroids that nearly equal an earlier centroid.
    perplexity: exp of the entropy of `usage`.
  """

  num_frames: int
  num_clusters: int
  inertia: tuple[float, ...]
  usage: tuple[int, ...]
  dead: int
  duplicate: int
  perplexity: float

  def __str__(self) -> str:
    usage = np.sort(np.asarray(self.usage))
    return "\n".join(
      [
        f"{self.num_frames} frames in {self.num_clusters} clusters, perplexity "
        f"{self.perplexity:.1f} ({100 * self.perplexity / self.num_clusters:.0f} %), "
        f"{self.dead} dead, {self.duplicate} duplicate",
        f"frames per cluster: least {usage[0]}, median {usage[len(usage) // 2]}, most {usage[-1]}",
        "inertia per pass: " + " ".join(f"{value:.3f}" for value in self.inertia),
      ]
    )


class KMeans(NamedTuple):
  """A fitted codebook; a token is the index of the centroid nearest to (x - mean) / scale."""

  mean: Float[np.ndarray, "dim"]
  scale: Float[np.ndarray, "dim"]
  centroids: Float[np.ndarray, "clusters dim"]
  report: KMeansReport


def fit_kmeans(
  features: Float[np.ndarray, "frames dim"] | Iterable[Float[np.ndarray, "_ dim"]],
  num_clusters: int,
  seed: int = 0,
  *,
  max_frames: int = 2_000_000,
  batch_size: int = 8192,
  online_passes: int = 4,
  refining_passes: int = 12,
) -> KMeans:
  """Whitens every dimension and clusters by k-means++, mini-batch passes and exact passes.

  Args:
    features: all frames as one array or as pieces.
    num_clusters: number of centroids.
    seed: seed of all random choices.
    max_frames: maximum number of clustered frames; if there are more, a uniform sample is used.
    batch_size: number of frames on the device at a time in the passes; k-means++ uses up to 16
      frames per centroid at once.
    online_passes: number of passes that update the centroids after every batch.
    refining_passes: number of passes that set the centroids once, to the means of their frames.

  Raises:
    DataError: there are no pieces, there are fewer frames than clusters, or a frame is not finite.

  Source: AudioLM, section III-B (mean 0 and variance 1 per dimension before k-means).
  """
  frames = sample_frames(features, max_frames, seed)
  mean, scale = whitening(frames)
  fitted = fit_centroids(
    (frames - mean) / scale,
    num_clusters,
    seed,
    batch_size=batch_size,
    online_passes=online_passes,
    refining_passes=refining_passes,
  )
  return fitted._replace(mean=mean, scale=scale)


def fit_centroids(
  frames: Float[np.ndarray, "frames dim"],
  num_clusters: int,
  seed: int = 0,
  *,
  batch_size: int = 8192,
  online_passes: int = 4,
  refining_passes: int = 12,
) -> KMeans:
  """Clusters frames like `fit_kmeans`, but without whitening: the result has mean 0 and scale 1.

  Args:
    frames: all frames.
    num_clusters: number of centroids.
    seed: seed of all random choices.
    batch_size: see `fit_kmeans`.
    online_passes: see `fit_kmeans`.
    refining_passes: see `fit_kmeans`.

  Raises:
    DataError: there are fewer frames than clusters, or a frame is not finite.
  """
  if len(frames) < num_clusters:
    raise DataError(
      f"{len(frames)} frames are too few for {num_clusters} clusters; use more audio or fewer "
      "clusters"
    )
  if not np.isfinite(frames).all():
    raise DataError("some features are NaN or infinite; the encoder's training has diverged")
  dim, batch_size = frames.shape[1], min(batch_size, len(frames))
  rng = np.random.default_rng(seed + 1)
  num_seeds = min(len(frames), _FRAMES_PER_SEED * num_clusters)
  sample = frames[rng.choice(len(frames), num_seeds, replace=False)]
  centroids = _plus_plus(jnp.asarray(sample), new_key(seed), num_clusters)
  # The sums decay by 1/e over about one pass, so centroids are means over about the last pass.
  keep = 1.0 - batch_size / (len(frames) + batch_size)
  counts = jnp.zeros(num_clusters)
  inertia = []
  for index in range(online_passes + refining_passes):
    shuffled = frames[rng.permutation(len(frames))]
    if index < online_passes:
      done = _pass(shuffled, centroids, counts, batch_size, keep)
    else:
      done = _pass(shuffled, centroids, jnp.zeros(num_clusters), batch_size, None)
    inertia.append(done.inertia)
    centroids, counts = done.centroids, done.counts
    if index < online_passes + refining_passes - 2:  # the last two passes move no idle centroids
      centroids, counts = _revive(done, rng)
  final = _pass(frames, centroids, jnp.zeros(num_clusters), batch_size, None)
  result = np.asarray(centroids)
  share = final.used[final.used > 0] / final.used.sum()
  report = KMeansReport(
    num_frames=len(frames),
    num_clusters=num_clusters,
    inertia=(*inertia, final.inertia),
    usage=tuple(int(n) for n in final.used),
    dead=int((final.used == 0).sum()),
    duplicate=count_duplicates(result),
    perplexity=float(np.exp(-(share * np.log(share)).sum())),
  )
  return KMeans(np.zeros(dim, np.float32), np.ones(dim, np.float32), result, report)


def sample_frames(
  features: Float[np.ndarray, "frames dim"] | Iterable[Float[np.ndarray, "_ dim"]],
  max_frames: int,
  seed: int = 0,
) -> Float[np.ndarray, "_ dim"]:
  """Returns all frames, or a uniform sample of `max_frames` frames if there are more.

  Raises:
    DataError: there are no pieces.
  """
  rng = np.random.default_rng(seed)
  pieces = [features] if isinstance(features, np.ndarray) else features
  kept, ranks, held = [], [], 0
  for piece in pieces:
    piece = np.asarray(piece, np.float32)
    kept.append(piece)
    ranks.append(rng.random(len(piece)))
    held += len(piece)
    if held > 2 * max_frames:
      kept, ranks = _lowest(kept, ranks, max_frames)
      held = max_frames
  if not kept:
    raise DataError("there are no features to cluster; provide audio files")
  if held > max_frames:
    kept, ranks = _lowest(kept, ranks, max_frames)
  return np.concatenate(kept)


def whitening(
  frames: Float[np.ndarray, "frames dim"],
) -> tuple[Float[np.ndarray, "dim"], Float[np.ndarray, "dim"]]:
  """Returns mean and standard deviation per dimension; replaces standard deviations near 0 by 1."""
  mean = frames.mean(axis=0, dtype=np.float64)
  deviation = frames.std(axis=0, dtype=np.float64)
  deviation = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6), deviation, 1.0)
  return mean.astype(np.float32), deviation.astype(np.float32)


@jax.jit
def nearest_centroid(
  x: Float[Array, "... dim"], centroids: Float[Array, "clusters dim"]
) -> Int[Array, "..."]:
  """Returns the index of the nearest centroid by Euclidean distance, computed in float32."""
  return jnp.argmax(_affinity(x, centroids), axis=-1).astype(jnp.int32)


@jax.jit
def nearest_of_close_centroids(
  x: Float[Array, "... dim"], centroids: Float[Array, "clusters dim"]
) -> Int[Array, "..."]:
  """Returns the index of the nearest centroid; rounds less than `nearest_centroid`.

  If the norms of vectors are much larger than the distances between them, `nearest_centroid` may
  select a centroid that is not the nearest. This function selects eight candidates by the distances
  of `nearest_centroid` and computes their distances again, as sums of squared differences.
  """
  _, candidates = jax.lax.top_k(_affinity(x, centroids), min(_CANDIDATES, len(centroids)))
  differences = x[..., None, :].astype(jnp.float32) - centroids.astype(jnp.float32)[candidates]
  chosen = jnp.argmin(jnp.sum(jnp.square(differences), axis=-1), axis=-1)
  return jnp.take_along_axis(candidates, chosen[..., None], axis=-1)[..., 0].astype(jnp.int32)


def count_duplicates(centroids: Float[np.ndarray, "clusters dim"]) -> int:
  """Returns the number of centroids that nearly equal an earlier centroid.

  Two centroids are nearly equal if their distance is much smaller than the median distance from a
  centroid to the nearest other centroid.
  """
  if len(centroids) < 2:
    return 0
  points = centroids.astype(np.float64)
  square = (points**2).sum(1)
  distance = np.sqrt(np.maximum(square[:, None] + square - 2 * points @ points.T, 0.0))
  np.fill_diagonal(distance, np.inf)
  near = distance.min(axis=1)
  apart = near[near > 1e-6 * max(np.sqrt(square.max()), 1e-12)]
  limit = _DUPLICATE * np.median(apart) if apart.size else np.inf
  limit = max(limit, 1e-6 * np.sqrt(square.max()))
  return int((np.tril(distance < limit, -1)).any(axis=1).sum())


def _lowest(
  kept: list[np.ndarray], ranks: list[np.ndarray], count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Returns a uniform sample, the `count` frames with the lowest random ranks, and their ranks."""
  frames, rank = np.concatenate(kept), np.concatenate(ranks)
  chosen = np.sort(np.argpartition(rank, count - 1)[:count])
  return [frames[chosen]], [rank[chosen]]


class _Pass(NamedTuple):
  """Centroids after a pass over all frames, and statistics of the pass.

  Attributes:
    centroids: [clusters, dim].
    counts: [clusters], weights of the centroids in the next pass.
    used: [clusters], number of frames in each cluster.
    inertia: mean squared distance to the nearest centroid.
    far_frames: [candidates, dim], the frames of each batch that are farthest from all centroids.
    far_distances: [candidates], squared distances of these frames to the nearest centroid.
  """

  centroids: Array
  counts: Array
  used: np.ndarray
  inertia: float
  far_frames: np.ndarray
  far_distances: np.ndarray


def _pass(
  frames: np.ndarray, centroids: Array, counts: Array, batch_size: int, keep: float | None
) -> _Pass:
  """Assigns all frames to centroids and updates the centroids.

  Args:
    frames: [frames, dim].
    centroids: [clusters, dim].
    counts: [clusters], weights of the given centroids in the first update.
    batch_size: number of frames on the device at a time.
    keep: factor per batch for the sums over earlier batches, if centroids are updated after every
      batch; None to update the centroids once, after all batches.
  """
  sums, used, inertia = centroids * counts[:, None], np.zeros(len(centroids)), 0.0
  far_frames, far_distances = [], []
  for start in range(0, len(frames), batch_size):
    batch = frames[start : start + batch_size]
    found = _batch_sums(centroids, *_padded(batch, batch_size))
    decay = 1.0 if keep is None else keep
    sums, counts = decay * sums + found.sums, decay * counts + found.counts
    if keep is not None:
      centroids = _means(sums, counts, centroids)
    used += np.asarray(found.counts)
    inertia += float(found.inertia)
    far_frames.append(batch[np.minimum(found.far_indices, len(batch) - 1)])
    far_distances.append(np.asarray(found.far_distances))
  return _Pass(
    _means(sums, counts, centroids),
    counts,
    used,
    inertia / len(frames),
    np.concatenate(far_frames),
    np.concatenate(far_distances),
  )


class _BatchSums(NamedTuple):
  sums: Array
  counts: Array
  inertia: Array
  far_indices: Array
  far_distances: Array


@jax.jit
def _batch_sums(
  centroids: Float[Array, "clusters dim"],
  batch: Float[Array, "frames dim"],
  weight: Float[Array, "frames"],
) -> _BatchSums:
  affinity = _affinity(batch, centroids)
  # Unlike a scatter, a matrix product gives equal sums in every run.
  members = jax.nn.one_hot(jnp.argmax(affinity, axis=-1), len(centroids)) * weight[:, None]
  distance = weight * jnp.maximum((batch * batch).sum(-1) - 2.0 * affinity.max(-1), 0.0)
  far_distances, far_indices = jax.lax.top_k(distance, min(64, len(batch)))
  sums = jnp.matmul(members.T, batch, precision=jax.lax.Precision.HIGHEST)
  return _BatchSums(sums, members.sum(0), distance.sum(), far_indices, far_distances)


def _affinity(
  x: Float[Array, "... dim"], centroids: Float[Array, "clusters dim"]
) -> Float[Array, "... clusters"]:
  """Returns (|x|^2 - distance^2) / 2, which is largest for the nearest centroid."""
  x, centroids = x.astype(jnp.float32), centroids.astype(jnp.float32)
  product = jnp.matmul(x, centroids.T, precision=jax.lax.Precision.HIGHEST)
  return product - 0.5 * (centroids * centroids).sum(-1)


@jax.jit
def _means(sums: Array, counts: Array, old: Array) -> Array:
  return jnp.where(counts[:, None] > 1e-3, sums / jnp.maximum(counts, 1e-3)[:, None], old)


def _revive(done: _Pass, rng: np.random.Generator) -> tuple[Array, Array]:
  """Moves rarely used centroids to random frames that are far from every centroid.

  Returns:
    The centroids and their weights in the next pass; the weight of a moved centroid is 1.
  """
  idle = np.flatnonzero(done.used < _LEAST_SHARE * done.used.mean())
  candidates = np.flatnonzero(done.far_distances > 0)
  idle = idle[: len(candidates)]
  if not idle.size:
    return done.centroids, done.counts
  odds = done.far_distances[candidates].astype(np.float64)
  chosen = rng.choice(candidates, len(idle), replace=False, p=odds / odds.sum())
  centroids = done.centroids.at[idle].set(jnp.asarray(done.far_frames[chosen]))
  return centroids, done.counts.at[idle].set(1.0)


def _padded(batch: np.ndarray, size: int) -> tuple[Array, Array]:
  missing = size - len(batch)
  weight = np.concatenate([np.ones(len(batch), np.float32), np.zeros(missing, np.float32)])
  return jnp.asarray(np.pad(batch, ((0, missing), (0, 0)))), jnp.asarray(weight)


@functools.partial(jax.jit, static_argnums=2)
def _plus_plus(
  frames: Float[Array, "frames dim"], key: PRNGKeyArray, num_clusters: int
) -> Float[Array, "clusters dim"]:
  """Returns initial centroids by k-means++.

  Each centroid is a random frame. The probability of a frame is proportional to its squared
  distance to the nearest earlier centroid.
  """
  square = (frames * frames).sum(-1)

  def distance_to(point: Array) -> Array:
    return jnp.maximum(square - 2.0 * frames @ point + point @ point, 0.0)

  def draw(index: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
    centroids, nearest = carry
    log_odds = jnp.log(nearest + 1e-12)
    point = frames[jax.random.categorical(jax.random.fold_in(key, index), log_odds)]
    return centroids.at[index].set(point), jnp.minimum(nearest, distance_to(point))

  first = frames[0]  # a random frame, because the frames are in random order
  centroids = jnp.zeros((num_clusters, frames.shape[1]), frames.dtype).at[0].set(first)
  return jax.lax.fori_loop(1, num_clusters, draw, (centroids, distance_to(first)))[0]
