"""Computes p-values of a watermark in the codes of a clip.

Under the null hypothesis, the clip has no watermark. Then each community of a level and context
(see `green_list`) is green with probability 1/2 in any audio. Each combination of level, context
and community (an entry) counts once, even if it occurs several times. So the number of green
entries has a binomial distribution. If levels have weights, the sum of the weights of green entries
is a sum of weighted binomial variables. If the context is a position, some entries are opposite
(see `counters_at`), so low p-values of these distributions are upper bounds.

The p-value is corrected for the search over offsets (see `Evidence`), first positions, windows and
payloads by the Bonferroni inequality. Half of the significance level is for watermarks without a
payload, and a quarter is for payloads of each length.

With a payload, each bit takes the value that makes more entries green. The p-value is the
probability of at least this number of green entries, times the number of payloads. It is an upper
bound: exact p-values are smaller by a factor of 1.1 (8 bits) or 20 (32 bits) at 1e-6, and by a
factor of 1.0 or 2 at 1e-20. In most clips, all 32 bits of a payload are read correctly only if the
p-value is below about 1e-20.

A distortion-free watermark (`WatermarkKind.GUMBEL`) has no payload, and each entry has a score.
Under the null hypothesis, the sum of the scores has a gamma distribution.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt16, UInt32, UInt64

from audiolm_jax.detection.green_list import PAYLOAD_BITS
from audiolm_jax.detection.watermark import GREEN, Watermark, WatermarkKind, marks_of, scores_of

# Number of keys that are tested together; limits the memory.
_KEYS_TOGETHER = 64

WINDOW_SECONDS = 4.0
# Duration of the part of a clip, from its beginning, that is tested as a whole. After this
# duration, only windows are tested.
WHOLE_SECONDS = 600.0


_LEVEL_SHARES = {1: np.array([1.0]), 3: np.array([0.5, 0.25, 0.25])}


def level_shares(kinds: int) -> Float[np.ndarray, "kinds"]:
  """Returns the share of the significance level for each payload length.

  Args:
    kinds: number of payload lengths, 1 or 3; the lengths are the first `kinds` of `PAYLOAD_BITS`.
  """
  return _LEVEL_SHARES[kinds]


class Findings(NamedTuple):
  """The result for one clip.

  Attributes:
    log10_p: log10 of the p-value of the clip for each key, corrected for all searches.
    per_second: for each second and key, log10 of the p-value of the nearest window (4 s, or a
      whole shorter clip), corrected for all searches except the search over windows.
    best: the best match over offsets and windows for each number of payload bits and key. Its
      p-values are not corrected for the choice of the number of bits.
  """

  log10_p: Float[np.ndarray, "keys"]
  per_second: Float[np.ndarray, "seconds keys"]
  best: "Match"


class Match(NamedTuple):
  """How well the entries of codes match keys, see `Watermark.entries`.

  The first axis (kinds) is for each of `PAYLOAD_BITS`, or for 0 bits only.

  Attributes:
    log10_p: log10 of the p-value, corrected for the search over payloads.
    entries: the number of distinct entries, or the sum of their weights.
    votes: for each bit of the longest payload, from the lowest bit, the weight of the entries for 1
      minus the weight of the entries for 0. Bits that a payload does not have are 0.
  """

  log10_p: Float[np.ndarray, "kinds keys"]
  entries: Int[np.ndarray, "kinds keys"]
  votes: Int[np.ndarray, "kinds keys bits"]

  def corrected(self, tests: int) -> "Match":
    """Returns the match with p-values corrected for a search over `tests` tests."""
    return self._replace(log10_p=np.minimum(self.log10_p + math.log10(tests), 0.0))

  def of_any_payload(self) -> Float[np.ndarray, "keys"]:
    """Returns log10 of the smallest p-value over the payload lengths, corrected for this choice."""
    shares = np.log10(level_shares(len(self.log10_p)))[:, None]
    return np.minimum((self.log10_p - shares).min(axis=0), 0.0)

  def or_better(self, other: "Match") -> "Match":
    """Returns the better of two matches, separately for each number of payload bits and key."""
    better = other.log10_p < self.log10_p
    return Match(
      np.where(better, other.log10_p, self.log10_p),
      np.where(better, other.entries, self.entries),
      np.where(better[..., None], other.votes, self.votes),
    )


class Evidence:
  """Collects the codes of one clip at several offsets and tests them, in bounded memory.

  An offset is the sample of the clip at which the first frame begins.

  Args:
    watermark: the watermark to find.
    keys: the keys to test.
    frame_rate: frames per second.
    offsets: number of offsets.
  """

  def __init__(
    self, watermark: Watermark, keys: UInt32[np.ndarray, "keys 4"], frame_rate: float, offsets: int
  ):
    trials = _PositionTrials if watermark.config.period else _CodeTrials
    self._trials, self._rate, self._frames = trials(watermark, keys, offsets), frame_rate, 0
    self._whole: Match | None = None
    self._best_window: Match | None = None
    self._windows: list[Float[np.ndarray, "keys"]] = []

  def push(self, codes: Int[np.ndarray, "offsets frames quantizers"]) -> None:
    """Adds the codes of further frames."""
    self._frames += self._trials.push(codes)
    while self._start(len(self._windows)) + self._length <= self._frames:
      start = self._start(len(self._windows))
      window = self._trials.best(start, start + self._length)
      self._windows.append(window.of_any_payload())
      self._best_window = window.or_better(self._best_window or window)
    if self._whole is None and self._frames > WHOLE_SECONDS * self._rate:
      self._whole = self._trials.best(0, self._frames)
    if self._whole is not None:
      self._trials.drop(self._start(len(self._windows)))

  def finish(self) -> Findings:
    """Returns the findings for all frames that were pushed."""
    whole = self._trials.best(0, self._frames) if self._whole is None else self._whole
    count, seconds = len(self._windows), (self._frames + self._trials.waiting) / self._rate
    seconds = math.ceil(seconds - 1e-6)
    if self._best_window is None or self._frames <= self._length:
      found = whole.of_any_payload()
      return Findings(found, np.tile(found, (seconds, 1)), whole)
    # The test of the whole clip and the tests of its windows share the significance level equally.
    best = whole.corrected(2).or_better(self._best_window.corrected(2 * count))
    around = np.clip(np.arange(seconds) - round(WINDOW_SECONDS / 2), 0, count - 1)
    return Findings(best.of_any_payload(), np.stack(self._windows)[around], best)

  @property
  def _length(self) -> int:
    """Number of frames of a window."""
    return round(WINDOW_SECONDS * self._rate)

  def _start(self, window: int) -> int:
    """Returns the first frame of a window; window `i` begins at second `i` of the clip."""
    return round(window * self._rate)


class _CodeTrials:
  """Collects the entries of one clip at several offsets, if a code's context is other codes.

  Args:
    watermark: the watermark to find.
    keys: the keys to test.
    offsets: number of offsets.
  """

  def __init__(self, watermark: Watermark, keys: UInt32[np.ndarray, "keys 4"], offsets: int):
    self._watermark, self._keys, self._offsets = watermark, keys, offsets
    levels = watermark.config.levels
    self._context = np.zeros((offsets, 0, levels), np.int32)
    # Entries and marks (or scores) of all frames that were not dropped.
    self._entries = np.zeros((offsets, 0, levels), np.uint64)
    if watermark.config.kind is WatermarkKind.GUMBEL:
      kinds, dtype, self._marks_of, self._match = 1, np.float32, scores_of, match_scores
    else:
      kinds, dtype, self._marks_of, self._match = len(PAYLOAD_BITS), np.uint8, marks_of, match
    self._marks = np.zeros((kinds, len(keys), offsets, 0, levels), dtype)
    self._dropped = 0

  @property
  def waiting(self) -> int:
    """Number of frames at the beginning without entries, because their context is incomplete."""
    return self._context.shape[1]

  def push(self, codes: Int[np.ndarray, "offsets frames quantizers"]) -> int:
    """Adds codes and returns the number of new frames with a complete context."""
    codes = np.concatenate([self._context, codes[..., : self._watermark.config.levels]], axis=1)
    self._context = codes[:, max(0, codes.shape[1] - self._watermark.config.frames) :]
    new = np.stack([self._watermark.entries(row) for row in codes])
    marks = self._marks_of(self._keys, new.reshape(-1))
    self._entries = np.concatenate([self._entries, new], axis=1)
    marks = marks.reshape(*marks.shape[:2], *new.shape)
    self._marks = np.concatenate([self._marks, marks], axis=3)
    return new.shape[1]

  def drop(self, end: int) -> None:
    """Deletes the frames before `end`."""
    count = end - self._dropped
    self._entries, self._marks = self._entries[:, count:], self._marks[..., count:, :]
    self._dropped = end

  def best(self, start: int, end: int) -> Match:
    """Returns the best match of frames `start` to `end - 1`, corrected for all offsets."""
    part = slice(start - self._dropped, end - self._dropped)
    matches = (
      self._match(self._entries[row, part].ravel(), self._marks[:, :, row, part])
      for row in range(self._offsets)
    )
    return functools.reduce(Match.or_better, matches).corrected(self._offsets)


class _PositionTrials:
  """Collects the communities of one clip at several offsets, if a code's context is its position.

  The position of the first frame is unknown, so all positions of the period are tested. P-values
  are corrected for this search.

  Args:
    watermark: the watermark to find.
    keys: the keys to test.
    offsets: number of offsets.
  """

  waiting = 0

  def __init__(self, watermark: Watermark, keys: UInt32[np.ndarray, "keys 4"], offsets: int):
    self._communities, self._period = watermark.communities, watermark.config.period
    self._weights = watermark.config.weights_of_levels()
    self._found = np.zeros((offsets, 0, watermark.config.levels), np.uint16)
    entries = watermark.entries_by_position()
    self._count = entries.shape[2]
    self._marks = marks_of(keys, entries.ravel())
    self._dropped = 0

  def push(self, codes: Int[np.ndarray, "offsets frames quantizers"]) -> int:
    """Adds codes and returns the number of new frames."""
    levels = np.arange(len(self._communities))
    new = self._communities[levels, codes[..., : len(levels)]]
    self._found = np.concatenate([self._found, new], axis=1)
    return new.shape[1]

  def drop(self, end: int) -> None:
    """Deletes the frames before `end`."""
    self._found = self._found[:, end - self._dropped :]
    self._dropped = end

  def best(self, start: int, end: int) -> Match:
    """Returns the best match of frames `start` to `end - 1`.

    Its p-values are corrected for the search over offsets and positions of the first frame.
    """
    matches = (
      self._of_offset(row[start - self._dropped : end - self._dropped], start)
      for row in self._found
    )
    return functools.reduce(Match.or_better, matches).corrected(len(self._found) * self._period)

  def _of_offset(self, found: UInt16[np.ndarray, "frames levels"], start: int) -> Match:
    """Returns the best match of one offset over all positions of the first frame.

    Args:
      found: communities of consecutive frames.
      start: index of the first of these frames in the clip.
    """
    levels = found.shape[1]
    positions = (start + np.arange(len(found))) % self._period
    cells = (positions[:, None] * levels + np.arange(levels)) * self._count + found
    cells = np.unique(cells)
    weights = self._weights[cells // self._count % levels]
    shifts = np.arange(self._period)[:, None] * (levels * self._count)
    shifted = (cells + shifts) % (self._period * levels * self._count)
    parts = [
      _least(tally(marks[..., shifted], weights))
      for marks in np.split(
        self._marks, range(_KEYS_TOGETHER, self._marks.shape[1], _KEYS_TOGETHER), 1
      )
    ]
    return Match(*(np.concatenate(of_parts, axis=1) for of_parts in zip(*parts, strict=True)))


def _least(match: Match) -> Match:
  """Returns the match with the smallest p-value for each kind and key.

  Args:
    match: several matches for each key, along axis 2 of its arrays.
  """
  best = match.log10_p.argmin(axis=2, keepdims=True)
  return Match(
    np.take_along_axis(match.log10_p, best, 2)[..., 0],
    np.take_along_axis(match.entries, best, 2)[..., 0],
    np.take_along_axis(match.votes, best[..., None], 2)[..., 0, :],
  )


def match(
  entries: UInt64[np.ndarray, "entries"], marks: UInt8[np.ndarray, "kinds keys *entries"]
) -> Match:
  """Returns the match of entries with keys; equal entries count once.

  Args:
    entries: the entries, from `Watermark.entries`.
    marks: their marks for each key, from `marks_of`.
  """
  _, first = np.unique(entries, return_index=True)
  return tally(marks.reshape(*marks.shape[:2], -1)[..., first], np.ones(len(first), np.int64))


def tally(
  marks: UInt8[np.ndarray, "kinds *keys entries"], weights: Int[np.ndarray, "entries"]
) -> Match:
  """Returns the match of distinct entries with keys; the keys may have any number of axes.

  Args:
    marks: marks of the entries for each key, from `marks_of`.
    weights: weight of each entry.
  """
  (*shape, count), bits_of_longest = marks.shape[1:], max(PAYLOAD_BITS)
  rows, total = math.prod(shape), int(weights.sum())
  tails = log10_tails(tuple((int(w), int((weights == w).sum())) for w in np.unique(weights)))
  signs = np.where(marks & GREEN, -weights, weights)
  log10_p = np.zeros((len(marks), *shape))
  votes = np.zeros((len(marks), *shape, bits_of_longest), np.int64)
  for kind, bits in enumerate(PAYLOAD_BITS):
    if bits:
      positions = (marks[kind] & (bits - 1)).reshape(rows, count)
      cells = np.arange(rows)[:, None] * bits + positions
      summed = np.bincount(cells.ravel(), signs[kind].ravel(), rows * bits)
      votes[kind, ..., :bits] = summed.reshape(*shape, bits)
      surplus = np.abs(votes[kind]).sum(axis=-1)
    else:
      surplus = -signs[kind].sum(axis=-1)
    log10_p[kind] = np.minimum(tails[(total + surplus) // 2] + bits * math.log10(2), 0.0)
  return Match(log10_p, np.full(log10_p.shape, total), votes)


@functools.lru_cache(maxsize=256)
def log10_tails(parts: tuple[tuple[int, int], ...]) -> Float[np.ndarray, "values"]:
  """Returns log10 P(X >= k) for each k from 0 to the largest X.

  X is a sum of independent variables. Each variable is 0 or its weight, both with probability 1/2.

  Args:
    parts: pairs of a weight and the number of variables with this weight.
  """
  density = np.zeros(1)  # log density, because p-values of long clips underflow
  for weight, count in parts:
    factorials = _log_factorials(count + 1)
    of_part = factorials[-1] - factorials - factorials[::-1] - count * math.log(2)
    before, density = density, np.full(len(density) + weight * count, -np.inf)
    if len(before) == 1:
      density[::weight] = of_part
      continue
    for number, value in enumerate(of_part):
      part = slice(weight * number, weight * number + len(before))
      density[part] = np.logaddexp(density[part], before + value)
  tails = np.logaddexp.accumulate(density[::-1])[::-1]
  return np.minimum(tails / math.log(10), 0.0)


def match_scores(
  entries: UInt64[np.ndarray, "entries"], scores: Float[np.ndarray, "1 keys *entries"]
) -> Match:
  """Returns the match of entries with keys, computed from scores; equal entries count once.

  Args:
    entries: the entries, from `Watermark.entries`.
    scores: their scores for each key, from `scores_of`.
  """
  _, first = np.unique(entries, return_index=True)
  keys, count = scores.shape[1], len(first)
  sums = scores.reshape(keys, -1)[:, first].sum(axis=1, dtype=np.float64)
  log10_p = np.array([[log10_gamma_tail(count, float(value)) for value in sums]])
  votes = np.zeros((1, keys, max(PAYLOAD_BITS)), np.int64)
  return Match(log10_p, np.full((1, keys), count), votes)


def log10_gamma_tail(count: int, value: float) -> float:
  """Returns log10 P(X >= value), where X is the sum of `count` exponential variables of mean 1."""
  if not count or value <= 0:
    return 0.0
  # X >= value if a Poisson process of rate 1 has at most count - 1 events before time `value`.
  terms = np.arange(count) * math.log(value) - _log_factorials(count)
  return min(0.0, float(np.logaddexp.reduce(terms) - value) / math.log(10))


@functools.lru_cache(maxsize=256)
def _log_factorials(count: int) -> Float[np.ndarray, "count"]:
  """Returns log k! for k from 0 to `count` - 1."""
  return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, count)))])
