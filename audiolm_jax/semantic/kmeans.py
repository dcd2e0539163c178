"""Whitening and k-means on the device: from layer features to the centroids of the tokens."""

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

_LEAST_SHARE = 0.02  # of the mean usage; less used centroids are moved
_DUPLICATE = 1e-3  # of the median distance to the nearest other centroid
_FRAMES_PER_SEED = 16
_CANDIDATES = 8  # number of centroids with exact distances


@dataclasses.dataclass(frozen=True)
class KMeansReport:
  """Statistics of a clustering.

  Attributes:
    num_frames: number of frames that were clustered.
    num_clusters: number of centroids.
    inertia: mean squared distance to the nearest centroid per pass. Divided by the dimension, it is
      the unexplained share of variance, since features are whitened. The last value is that of the
      result.
    usage: frames per cluster.
    dead: number of clusters without a frame.
    duplicate: number of clusters that are (nearly) equal to an earlier one.
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
  """A fitted codebook; a token is the nearest row of `centroids` to `(x - mean) / scale`."""

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
    features: all frames, or pieces of them; more than `max_frames` are sampled uniformly.
    num_clusters: number of centroids.
    seed: seed of all random choices.
    max_frames: number of frames to keep in memory.
    batch_size: number of frames on the device at a time.
    online_passes: passes that update the centroids after every batch.
    refining_passes: passes that update them once, to the means of their frames.

  Raises:
    DataError: there are fewer frames than clusters, or a frame is not finite.

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
  """Clusters frames as `fit_kmeans` does, without whitening: mean 0 and scale 1.

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
  # Decaying sums over about one pass: running means of the frames of the last pass.
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
    if index < online_passes + refining_passes - 2:  # the last passes only refine
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
  """Returns all frames of the pieces, or a uniform sample of `max_frames` of them.

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
  """Returns mean and standard deviation per dimension; the latter is 1 for a constant one."""
  mean = frames.mean(axis=0, dtype=np.float64)
  deviation = frames.std(axis=0, dtype=np.float64)
  deviation = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6), deviation, 1.0)
  return mean.astype(np.float32), deviation.astype(np.float32)


@jax.jit
def nearest_centroid(
  x: Float[Array, "... dim"], centroids: Float[Array, "clusters dim"]
) -> Int[Array, "..."]:
  """Returns the index of the centroid at the least Euclidean distance, computed in float32."""
  return jnp.argmax(_affinity(x, centroids), axis=-1).astype(jnp.int32)


@jax.jit
def nearest_of_close_centroids(
  x: Float[Array, "... dim"], centroids: Float[Array, "clusters dim"]
) -> Int[Array, "..."]:
  """Returns `nearest_centroid`, also exact if vectors are long relative to their distances.

  For such vectors, rounded products can have the wrong order. This takes the nearest candidates by
  products, and returns the one with the smallest sum of squared differences.
  """
  _, candidates = jax.lax.top_k(_affinity(x, centroids), min(_CANDIDATES, len(centroids)))
  differences = x[..., None, :].astype(jnp.float32) - centroids.astype(jnp.float32)[candidates]
  chosen = jnp.argmin(jnp.sum(jnp.square(differences), axis=-1), axis=-1)
  return jnp.take_along_axis(candidates, chosen[..., None], axis=-1)[..., 0].astype(jnp.int32)


def count_duplicates(centroids: Float[np.ndarray, "clusters dim"]) -> int:
  """Returns the number of centroids that nearly equal an earlier one, relative to distances."""
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
  """Returns the frames of the lowest random ranks, which are a uniform sample, and these ranks."""
  frames, rank = np.concatenate(kept), np.concatenate(ranks)
  chosen = np.sort(np.argpartition(rank, count - 1)[:count])
  return [frames[chosen]], [rank[chosen]]


class _Pass(NamedTuple):
  """Centroids after a pass over all frames, and statistics of the pass."""

  centroids: Array
  counts: Array
  used: np.ndarray
  inertia: float
  far_frames: np.ndarray
  far_distances: np.ndarray


def _pass(
  frames: np.ndarray, centroids: Array, counts: Array, batch_size: int, keep: float | None
) -> _Pass:
  """Updates centroids after every batch by decaying sums (`keep`), or once at the end (None)."""
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
  # A matrix product gives the same sums on every backend and in every run, unlike a scatter.
  members = jax.nn.one_hot(jnp.argmax(affinity, axis=-1), len(centroids)) * weight[:, None]
  distance = weight * jnp.maximum((batch * batch).sum(-1) - 2.0 * affinity.max(-1), 0.0)
  far_distances, far_indices = jax.lax.top_k(distance, min(64, len(batch)))
  sums = jnp.matmul(members.T, batch, precision=jax.lax.Precision.HIGHEST)
  return _BatchSums(sums, members.sum(0), distance.sum(), far_indices, far_distances)


def _affinity(
  x: Float[Array, "... dim"], centroids: Float[Array, "clusters dim"]
) -> Float[Array, "... clusters"]:
  """Returns (|x|^2 - distance^2) / 2, which is larger for nearer centroids."""
  x, centroids = x.astype(jnp.float32), centroids.astype(jnp.float32)
  product = jnp.matmul(x, centroids.T, precision=jax.lax.Precision.HIGHEST)
  return product - 0.5 * (centroids * centroids).sum(-1)


@jax.jit
def _means(sums: Array, counts: Array, old: Array) -> Array:
  return jnp.where(counts[:, None] > 1e-3, sums / jnp.maximum(counts, 1e-3)[:, None], old)


def _revive(done: _Pass, rng: np.random.Generator) -> tuple[Array, Array]:
  """Moves rarely used centroids to frames that are far from every centroid."""
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
  """Initializes by k-means++: draws each centroid by the squared distance to those before."""
  square = (frames * frames).sum(-1)

  def distance_to(point: Array) -> Array:
    return jnp.maximum(square - 2.0 * frames @ point + point @ point, 0.0)

  def draw(index: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
    centroids, nearest = carry
    log_odds = jnp.log(nearest + 1e-12)
    point = frames[jax.random.categorical(jax.random.fold_in(key, index), log_odds)]
    return centroids.at[index].set(point), jnp.minimum(nearest, distance_to(point))

  first = frames[0]  # the sample is in random order
  centroids = jnp.zeros((num_clusters, frames.shape[1]), frames.dtype).at[0].set(first)
  return jax.lax.fori_loop(1, num_clusters, draw, (centroids, distance_to(first)))[0]
