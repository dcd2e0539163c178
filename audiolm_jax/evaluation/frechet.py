"""Fréchet audio distance by a fixed embedding that needs no trained network.

The embedding of one second is a vector of statistics of log-mel cepstra, each divided by its
standard deviation over read speech: a distance of 1 is a shift of all windows by one such deviation
in one dimension. It depends on timbre, level, syllable rate and noise between harmonics, but not on
words. These distances are not comparable with those of VGGish, CLAP or EnCodec embeddings.

Source: Kilgour et al., Fréchet audio distance, 2019, for the distance; the embedding is our own.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.evaluation import signal
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate, undefined
from audiolm_jax.io import audio

EMBEDDING = "log-mel statistics v1"  # any change of the constants below is a new version
DIM = 17
LEAST_GROUPS = 8  # minimum number of prompts to extrapolate from

_RATE = 16_000
_WINDOW, _HOP, _MEL_BINS = 1024, 160, 64
_FRAMES, _STEP = 100, 50  # of an embedding, and from one to the next
_LAG = 4  # frames between which a change is measured
_NUM_MEANS, _NUM_DEVIATIONS, _FINE = 8, 4, 24  # cepstra; from _FINE on, only the size
# Standard deviations over 185 utterances of LibriSpeech train-clean-100, rounded.
_MEAN_SCALES = (55.0, 25.0, 13.0, 12.0, 9.0, 8.0, 7.0, 7.0)  # dB
_DEVIATION_SCALE, _CHANGE_SCALE, _FINE_SCALE = 0.35, 0.35, 0.25  # nepers

_SIZES = 5
_SUBSETS = 40
_SPLITS = 100


def embed(
  waveform: Float[np.ndarray, " samples"], sample_rate: int
) -> Float[np.ndarray, "windows dim"]:
  """Embeds windows of one second, every half second.

  An embedding has, of the cepstra of 64 log-mel bands: the means of cepstra 0 to 7; the log
  standard deviations in time of cepstra 0 to 3 and of their changes within 40 ms; the log size of
  cepstra 24 to 63, which distinguishes harmonics from noise. Deviations of higher cepstra are not
  used: quantization noise increases them, and would favour a codec with few levels.

  Args:
    waveform: samples in [-1, 1]; frequencies above 8 kHz are removed.
    sample_rate: Hz.

  Returns:
    Embeddings; none for less than a second.
  """
  waveform = audio.resample(np.asarray(waveform, np.float32), sample_rate, _RATE)
  count = max(0, (len(waveform) - _FRAMES * _HOP) // (_STEP * _HOP) + 1)
  if not count:
    return np.zeros((0, DIM))
  mel = signal.mel_decibels(waveform, _RATE, _WINDOW, _HOP, _MEL_BINS).astype(np.float64)
  cepstra = mel @ signal.cosine_transform(_MEL_BINS)
  frames = np.lib.stride_tricks.sliding_window_view(cepstra, _FRAMES, axis=0)
  cepstra = frames[: count * _STEP : _STEP]  # [windows, cepstra, frames]
  low = cepstra[:, :_NUM_DEVIATIONS]
  fine = np.sqrt(np.square(cepstra[:, _FINE:]).mean(axis=(1, 2)))
  # 1 dB is added before a logarithm, so that silence and steady tones stay finite.
  parts = [
    cepstra[:, :_NUM_MEANS].mean(axis=-1) / _MEAN_SCALES,
    np.log(low.std(axis=-1) + 1.0) / _DEVIATION_SCALE,
    np.log((low[..., _LAG:] - low[..., :-_LAG]).std(axis=-1) + 1.0) / _CHANGE_SCALE,
    np.log(fine + 1.0)[:, None] / _FINE_SCALE,
  ]
  return np.concatenate(parts, axis=-1)


def frechet_distance(
  real: Float[np.ndarray, "windows dim"], made: Float[np.ndarray, "others dim"]
) -> float:
  """Returns the squared Fréchet distance of normal distributions with the moments of each side.

  It is too large by about a constant over the number of windows: compare distances of equal numbers
  of windows, or use `frechet_estimate`.

  Args:
    real: embeddings of one side.
    made: embeddings of the other side.

  Raises:
    ValueError: a side has fewer than two windows.

  Source: Dowson and Landau, The Fréchet distance between multivariate normal distributions, 1982.
  """
  if min(len(real), len(made)) < 2:
    raise ValueError(f"{len(real)} and {len(made)} windows are given; give at least 2 of each")
  one, other = _Moments([real]), _Moments([made])
  weights = np.ones((1, 1))
  return float(_distances(one.of(weights), other.of(weights))[0])


def frechet_estimate(
  real: Sequence[Float[np.ndarray, "_ dim"]],
  made: Sequence[Float[np.ndarray, "_ dim"]],
  seed: int = 0,
) -> Estimate:
  """Returns the distance extrapolated to an infinite number of prompts, which may be below 0.

  The distances of random subsets of the prompts, from half of them to all, are fitted by a line
  over one divided by their number; the value is that of the line at 0. The interval is the basic
  bootstrap interval of the distance without extrapolation, which is centred on the extrapolated
  one.

  Args:
    real: windows of each prompt.
    made: windows of each prompt on the other side; both sides of a prompt are drawn together.
    seed: seed of subsets and resampling.

  Returns:
    The estimate; NaN if fewer than `LEAST_GROUPS` prompts have windows on both sides, or if half of
    these prompts have no more windows than dimensions.

  Source:
    Chong and Forsyth, Effectively unbiased FID and Inception Score, 2020; for audio Gui et al.,
    Adapting Fréchet audio distance for generative music evaluation, 2024.
  """
  pairs = [(r, m) for r, m in zip(real, made, strict=True) if len(r) and len(m)]
  if not _enough([r for r, _ in pairs]) or not _enough([m for _, m in pairs]):
    return undefined(len(pairs))
  one, other = _Moments([r for r, _ in pairs]), _Moments([m for _, m in pairs])

  def plain(prompts: np.ndarray) -> float:
    weights = np.bincount(prompts, minlength=len(pairs))[None].astype(float)
    return float(_distances(one.of(weights), other.of(weights))[0])

  spread = bootstrap_estimate(plain, len(pairs), seed)
  rng = np.random.default_rng(seed)
  weights = _subsets(len(pairs), rng)
  value = _extrapolated(weights.sum(-1), _distances(one.of(weights), other.of(weights)))
  return Estimate(value, spread.low, spread.high, len(pairs))


def frechet_between_halves(groups: Sequence[Float[np.ndarray, "_ dim"]], seed: int = 0) -> Estimate:
  """Returns the distance between random halves of the prompts, to compare other distances with.

  Args:
    groups: windows of each prompt.
    seed: seed of splits and subsets.

  Returns:
    The mean over splits of the extrapolated distance, with the 2.5th and the 97.5th percentile; NaN
    if half of the prompts are too few. `n` is the number of prompts of one half.
  """
  groups = [group for group in groups if len(group)]
  half = len(groups) // 2
  if half < LEAST_GROUPS or not _enough(groups[:half]):
    return undefined(half)
  moments = _Moments(groups)
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(_SPLITS):
    order = rng.permutation(len(groups))
    sides = []
    for members in (order[:half], order[half : 2 * half]):
      weights = np.zeros((1 + (_SIZES - 1) * _SUBSETS, len(groups)))
      weights[:, members] = _subsets(half, rng)
      sides.append(weights)
    distances = _distances(moments.of(sides[0]), moments.of(sides[1]))
    found.append(_extrapolated(sides[0].sum(-1), distances))
  low, high = np.quantile(found, (0.025, 0.975))
  return Estimate(float(np.mean(found)), float(low), float(high), half)


def mean_distance(
  one: Float[np.ndarray, "windows dim"], other: Float[np.ndarray, "others dim"]
) -> float:
  """Returns the Euclidean distance of the mean embeddings of two sounds; NaN without windows."""
  if not len(one) or not len(other):
    return float("nan")
  return float(np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)))


class _Moments:
  """Counts, sums and sums of products of the windows of each prompt, which add over prompts."""

  def __init__(self, groups: Sequence[Float[np.ndarray, "_ dim"]]):
    groups = [np.asarray(group, np.float64) for group in groups]
    self.counts = np.array([len(group) for group in groups], np.float64)
    self.sums = np.stack([group.sum(axis=0) for group in groups])
    self.products = np.stack([group.T @ group for group in groups])

  def of(
    self, weights: Float[np.ndarray, "sets prompts"]
  ) -> tuple[Float[np.ndarray, "sets dim"], Float[np.ndarray, "sets dim dim"]]:
    """Returns the mean and covariance of each set, given the count of each prompt in each set."""
    counts = (weights @ self.counts)[:, None]
    means = weights @ self.sums / counts
    products = np.tensordot(weights, self.products, 1)
    outer = means[:, :, None] * means[:, None, :]
    return means, (products - counts[..., None] * outer) / (counts[..., None] - 1)


def _distances(
  one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, " sets"]:
  """Returns the squared distance of each pair of normal distributions.

  The trace of the square root of a product A B is that of (A^1/2 B A^1/2)^1/2, which is symmetric
  and so has real eigenvalues; eigenvalues that are negative by rounding count as 0.
  """
  (mean, covariance), (other_mean, other_covariance) = one, other
  values, vectors = np.linalg.eigh(covariance)
  root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :] @ vectors.swapaxes(1, 2)
  middle = root @ other_covariance @ root
  shared = np.sqrt(np.maximum(np.linalg.eigvalsh(middle), 0.0)).sum(axis=-1)
  traces = np.trace(covariance + other_covariance, axis1=1, axis2=2)
  return np.square(mean - other_mean).sum(axis=-1) + traces - 2 * shared


def _subsets(count: int, rng: np.random.Generator) -> Float[np.ndarray, "sets prompts"]:
  """Returns weights of prompts: first all prompts, then random subsets from half of them on."""
  sizes = np.linspace(count / 2, count, _SIZES)[:-1].round().astype(int)
  rows = [np.ones(count)]
  for size in np.repeat(sizes, _SUBSETS):
    rows.append(np.zeros(count))
    rows[-1][rng.permutation(count)[:size]] = 1.0
  return np.stack(rows)


def _extrapolated(
  sizes: Float[np.ndarray, " sets"], distances: Float[np.ndarray, " sets"]
) -> float:
  """Returns the value at infinite size of a line through the mean distance of each size."""
  each = np.unique(sizes)
  means = [distances[sizes == size].mean() for size in each]
  return float(np.polyfit(1.0 / each, means, 1)[1])


def _enough(groups: Sequence[np.ndarray]) -> bool:
  return len(groups) >= LEAST_GROUPS and sum(map(len, groups)) // 2 > DIM
