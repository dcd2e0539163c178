"""Watermarks: their settings, and the communities of codes that they mark.

A community is a set of codes that are often confused with each other when decoded audio is encoded.
"""

import dataclasses
import enum
import hashlib
import os
import re
from typing import Annotated

import numpy as np
from jaxtyping import Float32, Int, Num, Shaped, UInt8, UInt32, UInt64

from audiolm_jax.core import arguments, shapes
from audiolm_jax.core.configs import shown
from audiolm_jax.core.errors import ConfigError, UserError
from audiolm_jax.core.ranges import Range, Vocabulary
from audiolm_jax.detection import green_list
from audiolm_jax.detection.green_list import (
  ABSENT,
  LARGEST_COMMUNITY,
  MOST_CONTEXT,
  PAYLOAD_BITS,
)

STRENGTHS = Range(0, 100)
PERIODS = Range(0, LARGEST_COMMUNITY)
# Default period in frames: two seconds at 50 Hz. With a longer period, detection tests more
# positions, and fewer communities occur again at the same position.
PERIOD = 100
GREEN = 128  # bit of a mark from `marks_of`; the lowest 5 bits are a position
_LEVELS = Range(1, 64)
_ENTRIES = Range(0, MOST_CONTEXT)
_WEIGHTS = Range(1, 100)
_KEY = re.compile(r"[0-9a-f]{32}")
_PAYLOAD = re.compile(r"[0-9a-fA-F]{2}|[0-9a-fA-F]{8}")
_LEAST_KEY, _LARGEST_KEY = 16, 4_096  # bytes of a key file


class WatermarkKind(enum.StrEnum):
  """The way to mark codes: a bias for green communities, or sampling with noise from the key."""

  GREEN_LIST = "green_list"
  GUMBEL = "gumbel"


@dataclasses.dataclass(frozen=True)
class WatermarkConfig:
  """Settings of the watermark of a bundle.

  Each code has a context, which selects its green list or noise. The context is either the position
  of the code in time or codes that are sampled earlier.

  Attributes:
    levels: number of marked levels, starting with the coarsest level.
    codebook_size: codes per level.
    key: 32 hexadecimal digits in lower case, the public default key.
    strength: default number that sampling adds to the logits of green codes before the temperature;
      must be 1 for `WatermarkKind.GUMBEL`.
    frames: number of earlier frames whose codes at the same level are in the context; 0 for
      parallel stages.
    coarser: number of coarser levels of the same frame whose codes are in the context, starting
      with the coarsest level.
    kind: see `WatermarkKind`.
    weights: weight of each level in detection, only with a period; levels without a number have
      weight 1. The first level can have the largest weight, because processing of the audio changes
      its codes least.
    period: number of frames after which positions repeat, if the context is the position; 0 if the
      context consists of codes. Changed codes do not change a position, but the detector must
      search for the position of the first frame.

  Raises:
    ConfigError: the key is not 32 hexadecimal digits in lower case, or the settings contradict each
      other.

  Source:
    Kirchenbauer et al. (arXiv 2301.10226), "Hidden in Plain Tokens" (arXiv 2605.25967) for
    communities, and Aaronson (2022) for the noise.
  """

  levels: Annotated[int, _LEVELS]
  codebook_size: Vocabulary
  key: str
  strength: Annotated[float, STRENGTHS] = 2.0
  frames: Annotated[int, _ENTRIES] = 1
  coarser: Annotated[int, _ENTRIES] = 0
  kind: WatermarkKind = WatermarkKind.GREEN_LIST
  period: Annotated[int, PERIODS] = 0
  weights: tuple[Annotated[int, _WEIGHTS], ...] = ()

  def __post_init__(self):
    if not _KEY.fullmatch(self.key):
      raise ConfigError(f"the key of a watermark is {shown(self.key)}; give 32 hexadecimal digits")
    if self.frames + self.coarser > MOST_CONTEXT:
      raise ConfigError(
        f"the context of a watermark has {self.frames} frames and {self.coarser} levels; give at "
        f"most {MOST_CONTEXT} together"
      )
    if self.period and (self.frames or self.coarser or self.kind is WatermarkKind.GUMBEL):
      raise ConfigError(
        f"the period of a watermark is {self.period}; with a period, frames and coarser must be 0 "
        "and the kind green_list"
      )
    object.__setattr__(self, "weights", tuple(self.weights))
    if self.weights and not (self.period and len(self.weights) <= self.levels):
      raise ConfigError(
        f"a watermark of {self.levels} levels with the period {self.period} has "
        f"{len(self.weights)} weights; give at most one for each level, and a period"
      )
    if self.kind is WatermarkKind.GUMBEL and not self.frames:
      raise ConfigError(
        "a gumbel watermark without earlier frames in its context would have the same noise in "
        "each frame; set frames to 1 or more"
      )
    if self.kind is WatermarkKind.GUMBEL and self.strength != 1:
      raise ConfigError(
        f"the strength of a gumbel watermark is {self.strength:g}; it has none, set it to 1"
      )

  def weights_of_levels(self) -> Int[np.ndarray, "levels"]:
    """Returns the weight of each level in detection."""
    return np.array([*self.weights, *[1] * (self.levels - len(self.weights))], np.int64)

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shape of the array of communities."""
    return {"communities": (self.levels, self.codebook_size)}


@dataclasses.dataclass(frozen=True, eq=False)
class Watermark:
  """The watermark of a bundle.

  Attributes:
    config: settings of the watermark.
    communities: the community of each code at each level, 0 to `LARGEST_COMMUNITY`.

  Raises:
    ConfigError: the communities have a wrong shape or type, or are out of range.
  """

  config: WatermarkConfig
  communities: Num[np.ndarray, "levels size"]

  def __post_init__(self):
    found, wanted = np.asarray(self.communities), self.config.parameter_shapes()["communities"]
    if found.shape != wanted or found.dtype.kind not in "iu":
      raise ConfigError(
        f"communities are {found.dtype} of shape {found.shape}; integers of {wanted} are needed"
      )
    if not 0 <= int(found.min()) <= int(found.max()) <= LARGEST_COMMUNITY:
      raise ConfigError(
        f"communities are in {found.min()}..{found.max()}; the range is 0..{LARGEST_COMMUNITY}"
      )
    object.__setattr__(self, "communities", found.astype(np.uint16))

  @property
  def key(self) -> UInt32[np.ndarray, "4"]:
    """The default key as four words."""
    return key_words(bytes.fromhex(self.config.key))

  def entries(
    self, codes: Shaped[np.ndarray, "frames quantizers"], start: int = 0
  ) -> UInt64[np.ndarray, "_ l"]:
    """Returns the entry of each marked code: a number for its community, context and level.

    Entries are equal if the community, the context and the level are equal.

    Args:
      codes: codes of consecutive frames, with all marked levels.
      start: position of the first frame; only used with a period.

    Returns:
      Entries [max(0, frames - config.frames), levels]. The first `config.frames` frames have no
      entries, because their context is incomplete.
    """
    c = self.config
    levels = np.arange(c.levels)
    communities = self.communities[levels, codes[:, : c.levels]].astype(np.uint32)
    own, count = communities[c.frames :], max(0, len(codes) - c.frames)
    # `sampling.watermark` has the context in the same order.
    context = [communities[c.frames - lag :][:count] for lag in range(1, c.frames + 1)]
    for level in range(c.coarser):
      coarser = own[:, [min(level, c.levels - 1)]]
      context.append(np.where(levels > level, coarser, np.uint32(ABSENT)))
    numbers = levels.astype(np.uint32)
    if c.period:
      positions = ((start + np.arange(count)) % c.period).astype(np.uint32)[:, None]
      return _joined(*green_list.counters_at(positions, numbers, own))
    return _joined(*green_list.counters(numbers, context, own))

  def entries_by_position(self) -> UInt64[np.ndarray, "positions levels communities"]:
    """Returns the entries of all communities at all positions of the period."""
    c = self.config
    axes = np.arange(c.period), np.arange(c.levels), np.arange(1 + int(self.communities.max()))
    positions, levels, communities = (
      axis.astype(np.uint32) for axis in np.meshgrid(*axes, indexing="ij")
    )
    return _joined(*green_list.counters_at(positions, levels, communities))


def _joined(
  low: UInt32[np.ndarray, "..."], high: UInt32[np.ndarray, "..."]
) -> UInt64[np.ndarray, "..."]:
  return low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32))


def is_green(
  keys: UInt32[np.ndarray, "keys 4"], entries: UInt64[np.ndarray, "entries"], payload: bytes = b""
) -> Shaped[np.ndarray, "keys entries"]:
  """Returns whether each entry from `Watermark.entries` is green with each key.

  Args:
    keys: the keys.
    entries: the entries.
    payload: 1 or 4 bytes; b"" for no payload.
  """
  return green_list.is_green(*_cipher_input(keys, entries), *payload_words(payload))


def marks_of(
  keys: UInt32[np.ndarray, "keys 4"], entries: UInt64[np.ndarray, "entries"]
) -> UInt8[np.ndarray, "kinds keys entries"]:
  """Returns the mark of each entry with each key, for each of `PAYLOAD_BITS` (kinds).

  Returns:
    Bytes: the lowest 5 bits, modulo the number of payload bits, are the position of a payload bit.
    `GREEN` is added if the entry is green when this payload bit is 0.
  """
  words = np.stack(green_list.words_of(*_cipher_input(keys, entries)))
  return ((words >> 31) * GREEN | words & (max(PAYLOAD_BITS) - 1)).astype(np.uint8)


def scores_of(
  keys: UInt32[np.ndarray, "keys 4"], entries: UInt64[np.ndarray, "entries"]
) -> Float32[np.ndarray, "1 keys entries"]:
  """Returns the score of each entry with each key, for `WatermarkKind.GUMBEL`.

  Without a watermark, the scores of different entries are independent and exponentially distributed
  with mean 1. Codes that were sampled with the noise of the key have a larger mean score.
  """
  return -np.log(green_list.uniform(*_cipher_input(keys, entries)))[None]


def _cipher_input(
  keys: UInt32[np.ndarray, "keys 4"], entries: UInt64[np.ndarray, "entries"]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
  low = (entries & np.uint64(0xFFFFFFFF)).astype(np.uint32)
  high = (entries >> np.uint64(32)).astype(np.uint32)
  return [keys[:, [i]] for i in range(4)], low, high


def payload_words(payload: object) -> UInt32[np.ndarray, "2"]:
  """Returns the number of bits and the value of a payload, for `green_list.is_green`.

  Args:
    payload: 1 or 4 bytes; b"" for no payload.

  Raises:
    UserError: the payload is not bytes, or does not have 0, 1 or 4 bytes.
  """
  if not isinstance(payload, bytes) or 8 * len(payload) not in PAYLOAD_BITS:
    given = f"{len(payload)} bytes" if isinstance(payload, bytes) else shown(payload)
    raise UserError(f"watermark_payload is {given}; give 1 or 4 bytes")
  return np.array([8 * len(payload), int.from_bytes(payload, "big")], np.uint32)


def key_words(key: bytes) -> UInt32[np.ndarray, "4"]:
  """Returns the four words of a key of 16 bytes."""
  return np.frombuffer(key, "<u4").astype(np.uint32)


def private_key(content: object) -> UInt32[np.ndarray, "4"]:
  """Returns the key for the content of a key file: the first 16 bytes of its SHA-256 hash.

  Raises:
    UserError: the content is not bytes, or does not have 16 to 4096 bytes.
  """
  if not isinstance(content, bytes) or not _LEAST_KEY <= len(content) <= _LARGEST_KEY:
    given = f"{len(content)} bytes" if isinstance(content, bytes) else shown(content)
    raise UserError(f"watermark_key is {given}; give {_LEAST_KEY} to {_LARGEST_KEY} random bytes")
  return key_words(hashlib.sha256(content).digest()[:16])


def payload_of_hex(digits: str) -> bytes:
  """Converts 2 or 8 hexadecimal digits to a payload of 1 or 4 bytes.

  Raises:
    UserError: the text is not 2 or 8 hexadecimal digits.
  """
  if not _PAYLOAD.fullmatch(digits):
    raise UserError(
      f"--watermark_payload {digits!r} is no payload; give 2 or 8 hexadecimal digits, such as c3"
    )
  return bytes.fromhex(digits)


def read_key(path: str | os.PathLike[str]) -> bytes:
  """Returns the content of a key file.

  Raises:
    UserError: `path` is not a path, or the file cannot be read or does not have 16 to 4096 bytes.
  """
  path = arguments.path(path, "watermark_key", "the name of a file")
  try:
    if not os.path.isfile(path):
      raise UserError(f"{path} is not a file; give a file of random bytes as --watermark_key")
    with open(path, "rb") as file:
      content = file.read(_LARGEST_KEY + 1)
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error
  if not _LEAST_KEY <= len(content) <= _LARGEST_KEY:
    raise UserError(
      f"{path} is no key: it does not have {_LEAST_KEY} to {_LARGEST_KEY} bytes; make one with "
      f"head -c 32 /dev/urandom > {path}"
    )
  return content
