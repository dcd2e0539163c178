"""Fréchet audio distance with a fixed embedding that needs no trained network.

An embedding is a vector with statistics of the log-mel cepstra in one second. Each statistic is
divided by its standard deviation over read speech. A shift of all windows by one standard deviation
in one dimension is therefore a distance of 1. The embedding depends on timbre, level, syllable rate
and noise between harmonics, but not on words. The distances are not comparable with distances of
VGGish, CLAP or EnCodec embeddings.

Source: Kilgour et al., Fréchet audio distance, 2019, for the distance; the embedding is specific to
this project.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.evaluation import signal
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate, undefined
from audiolm_jax.io import audio

EMBEDDING = "log-mel statistics v1"  # increase the version if a constant below changes
DIM = 17
LEAST_GROUPS = 8  # minimum number of prompts to extrapolate from

_RATE = 16_000
_WINDOW, _HOP, _MEL_BINS = 1024, 160, 64
_FRAMES, _STEP = 100, 50  # frames of a window, and from one window to the next
_LAG = 4  # number of frames over which a change is measured
# Numbers of cepstra with means and with deviations; cepstra from _FINE on have a joint statistic.
_NUM_MEANS, _NUM_DEVIATIONS, _FINE = 8, 4, 24
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

  An embedding has these statistics of the cepstra from 64 log-mel bands:

  - the means of cepstra 0 to 7;
  - the log standard deviations over time, of cepstra 0 to 3 and of their changes within 40 ms;
  - the log root mean square of cepstra 24 to 63, which distinguishes harmonics from noise.

  Standard deviations of the other cepstra are not used, because quantization noise increases them
  and so would favour a codec with few levels.

  Args:
    waveform: samples in [-1, 1]; frequencies above 8 kHz are removed.
    sample_rate: sample rate of the waveform in Hz.

  Returns:
    The embeddings; an empty array if the waveform is shorter than one second.
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
  # 1 dB is added before a logarithm, so that silence and steady tones have finite values.
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
  """Returns the squared Fréchet distance between normal distributions.

  The distributions are fitted to two sets of embeddings.

  The distance has a positive bias, about proportional to 1 / number of windows. Compare
  distances for equal numbers of windows, or use `frechet_estimate`.

  Args:
    real: window embeddings of real audio.
    made: window embeddings of sampled audio.

  Raises:
    ValueError: a set has fewer than two windows.

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
  """Returns the Fréchet distance extrapolated to infinitely many prompts.

  The distance is computed for random subsets with half or more of the prompts. A line is fitted to
  the distances as a function of 1 / number of prompts. The estimate is the value of the line at 0,
  which can be negative. The interval is the basic bootstrap interval of the distance without
  extrapolation. A basic interval corrects the bias of the distance, so its centre is near the
  estimate.

  Args:
    real: for each prompt, window embeddings of real audio.
    made: for each prompt, window embeddings of sampled audio. The real and the sampled windows of a
      prompt are resampled together.
    seed: seed of the subsets and the resampling.

  Returns:
    The estimate; NaN if fewer than `LEAST_GROUPS` prompts have windows in both sets, or if a set
    has fewer than 2 * (`DIM` + 1) windows.

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
  """Returns the Fréchet distance between random halves of the prompts, a reference value.

  Args:
    groups: for each prompt, window embeddings.
    seed: seed for the random halves, and for the subsets of `frechet_estimate`.

  Returns:
    The mean over random splits of the distance, extrapolated as in `frechet_estimate`. The
    interval is from the 2.5th to the 97.5th percentile, and `n` is the number of prompts in a half.
    NaN if a half has too few prompts or windows for `frechet_estimate`.
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
  """Returns the Euclidean distance between two mean embeddings; NaN if a sound has no windows."""
  if not len(one) or not len(other):
    return float("nan")
  return float(np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)))


class _Moments:
  """For each prompt, the number, the sum and the sum of outer products of its window embeddings.

  For a set of prompts, these values are added.
  """

  def __init__(self, groups: Sequence[Float[np.ndarray, "_ dim"]]):
    groups = [np.asarray(group, np.float64) for group in groups]
    self.counts = np.array([len(group) for group in groups], np.float64)
    self.sums = np.stack([group.sum(axis=0) for group in groups])
    self.products = np.stack([group.T @ group for group in groups])

  def of(
    self, weights: Float[np.ndarray, "sets prompts"]
  ) -> tuple[Float[np.ndarray, "sets dim"], Float[np.ndarray, "sets dim dim"]]:
    """Returns the means and covariances of sets of prompts; a prompt can be in a set repeatedly.

    Args:
      weights: number of times that each prompt is in each set.
    """
    counts = (weights @ self.counts)[:, None]
    means = weights @ self.sums / counts
    products = np.tensordot(weights, self.products, 1)
    outer = means[:, :, None] * means[:, None, :]
    return means, (products - counts[..., None] * outer) / (counts[..., None] - 1)


def _distances(
  one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, " sets"]:
  """Returns the squared Fréchet distance between each pair of normal distributions.

  For covariances A and B, the trace of (A B)^1/2 equals the trace of (A^1/2 B A^1/2)^1/2. The
  matrix A^1/2 B A^1/2 is symmetric and therefore has real eigenvalues. Eigenvalues that are
  negative because of rounding are set to 0.
  """
  (mean, covariance), (other_mean, other_covariance) = one, other
  values, vectors = np.linalg.eigh(covariance)
  root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :] @ vectors.swapaxes(1, 2)
  middle = root @ other_covariance @ root
  shared = np.sqrt(np.maximum(np.linalg.eigvalsh(middle), 0.0)).sum(axis=-1)
  traces = np.trace(covariance + other_covariance, axis1=1, axis2=2)
  return np.square(mean - other_mean).sum(axis=-1) + traces - 2 * shared


def _subsets(count: int, rng: np.random.Generator) -> Float[np.ndarray, "sets prompts"]:
  """Returns weights, 0 or 1, of prompts: all prompts, then random sets of about half or more."""
  sizes = np.linspace(count / 2, count, _SIZES)[:-1].round().astype(int)
  rows = [np.ones(count)]
  for size in np.repeat(sizes, _SUBSETS):
    rows.append(np.zeros(count))
    rows[-1][rng.permutation(count)[:size]] = 1.0
  return np.stack(rows)


def _extrapolated(
  sizes: Float[np.ndarray, " sets"], distances: Float[np.ndarray, " sets"]
) -> float:
  """Fits a line to the mean distance as a function of 1 / size; returns the line's value at 0."""
  each = np.unique(sizes)
  means = [distances[sizes == size].mean() for size in each]
  return float(np.polyfit(1.0 / each, means, 1)[1])


def _enough(groups: Sequence[np.ndarray]) -> bool:
  return len(groups) >= LEAST_GROUPS and sum(map(len, groups)) // 2 > DIM
