"""ABX: whether a phone is nearer to the same phone than to a different phone in the same context.

The item files have the format of Libri-Light: each line has the file, the onset, the offset, the
phone, the phone before, the phone after and the speaker. For a pair of phones, A and X are two
instances of the first phone, and B is an instance of the second phone. All three are between the
same neighbouring phones. Within speakers, A, B and X are by one speaker; across speakers, X is by a
different speaker. An X that is nearer to B than to A is an error; a tie is half an error.

Source: Schatz et al., "Evaluating speech features with the Minimal-Pair ABX task", 2013; item
format, limits and order of averaging as in Kahn et al., "Libri-Light", 2020.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.lines import read_lines
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate, mean_estimate

MAX_GROUP = 10  # maximum number of items with the same phone, speaker and context
MAX_OTHERS = 5  # maximum number of other speakers for X
_FIELDS = 7


class PhoneItem(NamedTuple):
  """One phone in a recording.

  Attributes:
    file: name of the audio file without suffix.
    onset: start of the phone in seconds.
    offset: end of the phone in seconds.
    phone: symbol of the phone.
    context: the phone before and the phone after.
    speaker: name of the speaker.
  """

  file: str
  onset: float
  offset: float
  phone: str
  context: tuple[str, str]
  speaker: str


@dataclasses.dataclass(frozen=True)
class AbxReport:
  """Error rates over triples of A, B and X, from 0 to 1; the rate by chance is 0.5.

  Attributes:
    within: error rate within speakers, the mean over phone pairs, with an interval from resampled
      pairs; NaN if there are no triples.
    across: error rate across speakers, computed like `within`.
    num_triples: number of triples within and across speakers.
  """

  within: Estimate
  across: Estimate
  num_triples: tuple[int, int]


def read_items(path: str | os.PathLike[str]) -> list[PhoneItem]:
  """Reads a file of items in the Libri-Light format.

  Raises:
    DataError: the file cannot be read or has no items, or a line is not an item.
    UserError: the file is not text, or a URL cannot be reached.
  """
  items = []
  for number, line in read_lines(path):
    if line.startswith("#"):
      continue
    try:
      file, onset, offset, phone, before, after, speaker = line.split()
      item = PhoneItem(file, float(onset), float(offset), phone, (before, after), speaker)
    except ValueError as error:
      raise DataError(
        f"{path}, line {number}: no item of {_FIELDS} fields (file, onset, offset, phone, phone "
        "before, phone after, speaker)"
      ) from error
    items.append(item)
  if not items:
    raise DataError(f"{path} has no items; give a file of items in the Libri-Light format")
  return items


def frames_of(
  item: PhoneItem, features: Num[np.ndarray, "frames dim"], frame_rate: float
) -> Num[np.ndarray, "inside dim"]:
  """Returns the frames of an item.

  Args:
    item: the item.
    features: frames of the item's file.
    frame_rate: frames per second.

  Returns:
    The frames whose centres are in the item; if there are none, the frame at the item's centre. An
    item after the last frame gets the last frame.
  """
  first = int(np.ceil(item.onset * frame_rate - 0.5))
  last = int(np.ceil(item.offset * frame_rate - 0.5))
  if last <= first:
    middle = int((item.onset + item.offset) / 2 * frame_rate)
    first, last = middle, middle + 1
  first = min(max(0, first), len(features) - 1)
  return features[first : max(first + 1, last)]


def angular_distances(
  one: Float[np.ndarray, "m dim"], other: Float[np.ndarray, "n dim"]
) -> Float[np.ndarray, "m n"]:
  """Returns the angles between all pairs of frames, divided by 180 degrees."""
  norms = (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-12 for x in (one, other))
  one, other = (x / norm for x, norm in zip((one, other), norms, strict=True))
  return np.arccos(np.clip(one @ other.T, -1.0, 1.0)) / np.pi


def warped_distance(one: Float[np.ndarray, "m dim"], other: Float[np.ndarray, "n dim"]) -> float:
  """Returns the mean angular distance along the best alignment of two sequences.

  Source: dynamic time warping with equal weights of the three steps.
  """
  costs = angular_distances(one, other)
  m, n = costs.shape
  total = np.full((m + 1, n + 1), np.inf)
  length = np.zeros((m + 1, n + 1))
  total[0, 0] = 0.0
  for i, j in itertools.product(range(m), range(n)):
    from_ = min(((i, j), (i, j + 1), (i + 1, j)), key=lambda cell: total[cell])
    total[i + 1, j + 1] = costs[i, j] + total[from_]
    length[i + 1, j + 1] = 1 + length[from_]
  return float(total[m, n] / length[m, n])


def abx(
  items: Iterable[tuple[PhoneItem, Float[np.ndarray, "_frames dim"]]], seed: int = 0
) -> AbxReport:
  """Returns the ABX error rates.

  At most `MAX_GROUP` items of one phone, speaker and context are used, and at most `MAX_OTHERS`
  other speakers for X. Error rates are averaged over triples, then over contexts (and the speakers
  of X), then over the speakers of A and B, and then over phone pairs.

  Args:
    items: pairs of an item and its frames.
    seed: seed for the choice of items and speakers.
  """
  rng = np.random.default_rng(seed)
  groups: dict[tuple[str, str], dict[str, dict[str, list[np.ndarray]]]] = {}
  for item, frames in items:
    by_speaker = groups.setdefault(item.context, {}).setdefault(item.speaker, {})
    by_speaker.setdefault(item.phone, []).append(frames)
  for by_speaker in groups.values():
    for by_phone in by_speaker.values():
      for phone, found in by_phone.items():
        chosen = rng.permutation(len(found))[:MAX_GROUP]
        by_phone[phone] = [found[i] for i in sorted(chosen)]
  distances = _Distances()
  within, across = _Errors(), _Errors()
  for by_speaker in groups.values():
    for speaker, by_phone in by_speaker.items():
      for a, b in itertools.permutations(sorted(by_phone), 2):
        pair, ones, others = (a, b), by_phone[a], by_phone[b]
        within.add(pair, speaker, _error(distances, ones, others, ones))
        strangers = sorted(s for s, phones in by_speaker.items() if s != speaker and a in phones)
        for stranger in rng.permutation(strangers)[:MAX_OTHERS]:
          same = by_speaker[str(stranger)][a]
          across.add(pair, speaker, _error(distances, ones, others, same))
  return AbxReport(within.mean(), across.mean(), (within.triples, across.triples))


class _Distances:
  """Distances between pairs of sequences, stored so that each distance is computed once."""

  def __init__(self) -> None:
    self._known: dict[tuple[int, int], float] = {}

  def __call__(self, one: np.ndarray, other: np.ndarray) -> float:
    key = (min(id(one), id(other)), max(id(one), id(other)))
    if key not in self._known:
      self._known[key] = warped_distance(one, other)
    return self._known[key]


class _Errors:
  """Error rates by phone pair and speaker of A: a rate for each context and speaker of X."""

  def __init__(self) -> None:
    self.triples = 0
    self._found: dict[tuple[str, str], dict[str, list[float]]] = {}

  def add(self, pair: tuple[str, str], speaker: str, error: tuple[float, int]) -> None:
    rate, triples = error
    if triples:
      self.triples += triples
      self._found.setdefault(pair, {}).setdefault(speaker, []).append(rate)

  def mean(self) -> Estimate:
    """Returns the mean over the rates of a speaker, then over speakers, then over phone pairs."""
    pairs = [
      float(np.mean([np.mean(rates) for rates in by_speaker.values()]))
      for by_speaker in self._found.values()
    ]
    return mean_estimate(pairs)


def _error(
  distances: _Distances,
  ones: Sequence[np.ndarray],
  others: Sequence[np.ndarray],
  same: Sequence[np.ndarray],
) -> tuple[float, int]:
  """Returns the error rate over triples of A, B and X, and the number of triples.

  Args:
    distances: function that returns the distance between two sequences.
    ones: sequences for A.
    others: sequences for B.
    same: sequences for X.
  """
  wrong, triples = 0.0, 0
  for x in same:
    to_b = np.array([distances(b, x) for b in others])
    for a in ones:
      if a is x:
        continue
      to_a = distances(a, x)
      wrong += (to_b < to_a).sum() + 0.5 * (to_b == to_a).sum()
      triples += len(to_b)
  return (wrong / triples if triples else 0.0), triples


@dataclasses.dataclass(frozen=True)
class PhoneReport:
  """Correspondence of tokens and phones, frame by frame.

  Attributes:
    cluster_purity: share of frames whose phone is the most frequent phone of their token.
    phone_purity: share of frames whose token is the most frequent token of their phone.
    pnmi: mutual information of phone and token divided by the entropy of the phones, with an
      interval from resampled files.
  """

  cluster_purity: float
  phone_purity: float
  pnmi: Estimate


def phone_report(
  labelled: Mapping[str, tuple[Sequence[int], Sequence[str]]],
) -> PhoneReport:
  """Returns purities and phone-normalised mutual information.

  Args:
    labelled: for each file, by name, the tokens and the phones of its frames.

  Source: Hsu et al., "HuBERT", section IV-C.
  """
  phones = sorted({phone for _, found in labelled.values() for phone in found})
  size = 1 + max(max(tokens, default=0) for tokens, _ in labelled.values())
  number = {phone: i for i, phone in enumerate(phones)}
  counts = np.zeros((len(labelled), len(phones), size))
  for row, (tokens, found) in enumerate(labelled.values()):
    np.add.at(counts[row], ([number[p] for p in found], list(tokens)), 1)
  joint = counts.sum(axis=0) / counts.sum()
  return PhoneReport(
    cluster_purity=float(joint.max(axis=0).sum()),
    phone_purity=float(joint.max(axis=1).sum()),
    pnmi=bootstrap_estimate(lambda rows: _pnmi(counts[rows].sum(axis=0)), len(counts)),
  )


def _pnmi(counts: Float[np.ndarray, "phones tokens"]) -> float:
  joint = counts / counts.sum()

  def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())

  of_phones, of_tokens = entropy(joint.sum(axis=1)), entropy(joint.sum(axis=0))
  mutual = of_phones + of_tokens - entropy(joint.ravel())
  return mutual / of_phones if of_phones else float("nan")
