"""Finds communities of codes, and measures how many codes keep their community.

A clip is encoded, decoded, changed by a channel (such as compression) and encoded again. Codes that
are often confused with each other form a community. A community survives more often than a code.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.interface import Codec
from audiolm_jax.core.errors import UserError
from audiolm_jax.detection.green_list import LARGEST_COMMUNITY
from audiolm_jax.detection.watermark_detector import OFFSETS
from audiolm_jax.evaluation import degradations

MISSING = (
  "communities are found by scikit-network, an extra: pip install 'scikit-network>=0.33.5,<0.34'"
)
CLEAN = "clean"
_RESOLUTIONS = (0.5, 1.0, 2.0, 4.0, 8.0)
_CODES = 200

Channel = Callable[[Float[np.ndarray, "samples"]], Float[np.ndarray, "samples"]]
Table = Int[np.ndarray, "levels size size"]


class Counts(NamedTuple):
  """Counts of pairs of codes.

  Attributes:
    confused: counts for each channel, by name. The row is the code of a frame; the column is the
      code of this frame after the audio is decoded, changed by the channel and encoded again.
    following: counts of the code of a frame (row) and the code of the next frame (column).
  """

  confused: dict[str, Table]
  following: Table


class Survival(NamedTuple):
  """How many codes of one level keep their community when audio is encoded again.

  Attributes:
    share: share of the codes that keep their community.
    chance: expected share if the codes before and after re-encoding were independent.
    effective: effective number of communities after re-encoding: 1 / the sum of squared
      community frequencies.
  """

  share: float
  chance: float
  effective: float

  @property
  def corrected(self) -> float:
    """The share corrected for chance: 1 if `share` is 1, 0 if `share` is `chance`.

    The value is 0 if there is only one community.
    """
    return (self.share - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0


def check_installed() -> None:
  """Raises `UserError` if scikit-network is not installed."""
  if importlib.util.find_spec("sknetwork") is None:
    raise UserError(MISSING)


def channels(sample_rate: int) -> dict[str, Channel]:
  """Returns the channels by name; the bit rates in the names are for 16 and 24 kHz."""

  def compressed(codec: str, level: float) -> Channel:
    return lambda waveform: degradations.compress(waveform, sample_rate, codec, level)[0]

  return {
    CLEAN: lambda waveform: waveform,
    "MP3 at 64 kbit/s": compressed("mp3", 0.63),
    "Opus at 24 kbit/s": compressed("opus", 0.93),
    "through 8 kHz": lambda w: degradations.narrow(w, sample_rate, 8_000),
    "noise at 20 dB": lambda w: degradations.add_noise(w, 20.0, len(w)),
  }


def confusions(
  codec: Codec,
  clips: Iterable[Float[np.ndarray, "_samples"]],
  of_channels: Mapping[str, Channel],
  levels: int,
  seed: int = 0,
) -> Counts:
  """Counts pairs of codes before and after a channel, and pairs of consecutive codes; see `Counts`.

  A detector tests several offsets, so its frames begin at most half an offset step before or after
  the original frames. The second encoding has a random offset in this range.

  Args:
    codec: the codec.
    clips: clips at the codec's sample rate.
    of_channels: channels by name.
    levels: number of levels whose codes are counted.
    seed: seed of the offsets.
  """
  size, hop = codec.spec.codebook_size, codec.spec.hop_length
  reach, rng = hop / OFFSETS / 2, np.random.default_rng(seed)
  counts = {name: np.zeros((levels, size, size), np.int64) for name in of_channels}
  following = np.zeros((levels, size, size), np.int64)
  for clip in clips:
    before = codec.encode_long(clip)
    decoded = np.clip(codec.decode(before[None])[0], -1.0, 1.0)
    for level in range(levels):
      np.add.at(following[level], (before[:-1, level], before[1:, level]), 1)
    for name, channel in of_channels.items():
      shift = round(rng.uniform(-reach, reach))
      # With a negative shift, the first frame begins within the frame before.
      first, skipped = (shift, 0) if shift >= 0 else (hop + shift, 1)
      after = codec.encode_long(channel(decoded)[first:])[:, :levels]
      frames = min(len(before) - skipped, len(after)) - 1  # the last frame may be partial
      for level in range(levels):
        pair = before[skipped : skipped + frames, level], after[:frames, level]
        np.add.at(counts[name][level], pair, 1)
  return Counts(counts, following)


def communities_of(
  counts: Int[np.ndarray, "size size"],
  following: Int[np.ndarray, "size size"],
  codebook: Float[np.ndarray, "size dim"],
  period: int = 0,
) -> Int[np.ndarray, "size"]:
  """Returns the community of each code at one level.

  The Leiden algorithm is run at several resolutions. The result is the partition with the largest
  product of `survival`, `choice` and the square root of `distinct`. A watermark needs communities
  that survive, communities to choose from, and (community, context) pairs that do not repeat. For
  the context of a code, see `WatermarkConfig`. If the context consists of codes, the context must
  survive too, so the survival is squared. Partitions into too many communities are ignored.

  The survival alone is not sufficient. For example, a community of silence and a community of sound
  survive almost always, but a sampler cannot choose between them. A code that does not occur gets
  the community of the nearest code that occurs.

  Args:
    counts: counts of confused codes, see `Counts`, summed over the channels.
    following: counts of consecutive codes, see `Counts`.
    codebook: the vectors of the codes.
    period: period of the watermark, see `WatermarkConfig`; 0 if the context consists of codes.

  Raises:
    UserError: scikit-network is not installed.
  """
  check_installed()
  power = 1 if period else 2
  from scipy import sparse
  from scipy.spatial import distance
  from sknetwork.clustering import Leiden  # pyright: ignore[reportMissingImports]: an optional package

  seen = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
  among = counts[np.ix_(seen, seen)].astype(np.float64)
  graph = sparse.csr_matrix(among + among.T)
  best: tuple[float, np.ndarray] = (-1.0, np.zeros(len(seen), np.int64))
  for resolution in _RESOLUTIONS:
    found = Leiden(resolution=resolution, random_state=0).fit_predict(graph)
    after = following[np.ix_(seen, seen)]
    merit = survival(among, found).share ** power * choice(after, found)
    merit *= distinct(after, found, period) ** 0.5
    if found.max() <= LARGEST_COMMUNITY and merit > best[0]:
      best = merit, found
  nearest = distance.cdist(codebook, codebook[seen]).argmin(axis=1)
  return best[1][nearest].astype(np.int64)


def survival(
  counts: Float[np.ndarray, "size size"] | Int[np.ndarray, "size size"],
  communities: Int[np.ndarray, "size"],
) -> Survival:
  """Returns the share of the counted codes that keep their community, and the share by chance."""
  total = counts.sum()
  kept = counts[communities[:, None] == communities[None]].sum()
  shares = [np.bincount(communities, counts.sum(axis=axis)) / total for axis in (0, 1)]
  chance = float(shares[0] @ shares[1])
  return Survival(float(kept / total), chance, 1 / float(shares[0] @ shares[0]))


def choice(following: Int[np.ndarray, "size size"], communities: Int[np.ndarray, "size"]) -> float:
  """Returns how often two codes that follow codes of one community have different communities.

  The value is 0 if each community determines the next community; a watermark is then impossible. A
  language model knows more than the previous community, so the choice of its sampler is smaller.
  """
  pairs = _pairs(following, communities)
  after = pairs.sum(axis=1)
  # Only pairs of different observations count, so that few observations do not reduce the value.
  equal = (pairs * (pairs - 1)).sum(axis=1)
  several = after > 1
  shares = 1 - equal[several] / (after * (after - 1))[several]
  return float(np.average(shares, weights=after[several])) if several.any() else 0.0


def distinct(
  following: Int[np.ndarray, "size size"], communities: Int[np.ndarray, "size"], period: int = 0
) -> float:
  """Returns the expected share of different (community, context) pairs among 200 codes.

  200 codes are 4 s at 50 Hz. A detector counts repeated pairs only once. For the context and
  `period`, see `communities_of`.
  """
  pairs = _pairs(following, communities)
  shares = pairs / max(pairs.sum(), 1)
  if period:
    # Each position occurs equally often, with any community.
    each = _CODES / period
    return float((1 - (1 - shares.sum(axis=0)) ** each).sum() / each)
  return float((1 - (1 - shares) ** _CODES).sum() / _CODES)


def _pairs(
  following: Int[np.ndarray, "size size"], communities: Int[np.ndarray, "size"]
) -> Float[np.ndarray, "count count"]:
  """Returns how often each community (row) is followed by each community (column)."""
  count = int(communities.max()) + 1
  pairs = np.zeros((count, count))
  np.add.at(pairs, (communities[:, None], communities[None]), following)
  return pairs


def table(
  counts: Counts, communities: Int[np.ndarray, "levels size"]
) -> dict[str, list[dict[str, float]]]:
  """Returns the rounded survival and choice of each level, by channel name."""
  found: dict[str, list[dict[str, float]]] = {}
  free = [choice(one, own) for one, own in zip(counts.following, communities, strict=True)]
  for name, of_levels in counts.confused.items():
    kept = [survival(one, own) for one, own in zip(of_levels, communities, strict=True)]
    found[name] = [
      {
        "share": round(one.share, 3),
        "chance": round(one.chance, 3),
        "corrected": round(one.corrected, 3),
        "effective": round(one.effective, 1),
        "choice": round(of_level, 3),
      }
      for one, of_level in zip(kept, free, strict=True)
    ]
  return found
