"""The keyed green list of a watermark: which communities of codes a sampler prefers.

Whether a community is green depends on a key, its level and the communities before it, by one call
of a block cipher. With a payload, it also depends on one bit of the payload, whose position follows
from the same call: the bit inverts the choice. The functions use operators that NumPy and JAX
compute equally, so sampling and detection have the same list.

The same call also gives the random number of a community under a distortion-free watermark.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np

# A community has 10 bits in a counter, and the largest value marks an entry that a level lacks.
LARGEST_COMMUNITY, ABSENT = 1022, 1023
MOST_CONTEXT = 4
# Bits of a payload, powers of two. Each has a word of the cipher, so the lists are independent.
PAYLOAD_BITS = (0, 8, 32)
NO_PAYLOAD = np.uint32(0)
_BITS = 10
# The bit of the first counter that inverts the list.
_INVERTED = 31
_PARITY = 0x1BD11BDA
_ROTATIONS = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))

Words = TypeVar("Words", np.ndarray, jax.Array)


def counters(level: Words, context: Sequence[Words], community: Words) -> tuple[Words, Words]:
  """Returns the two words that identify a community, its level and its context.

  Args:
    level: uint32, below 4096.
    context: at most `MOST_CONTEXT` arrays of uint32 communities, or `ABSENT`.
    community: uint32 communities.
  """
  entries = [community, *context]
  entries += [community * 0 + ABSENT] * (1 + MOST_CONTEXT - len(entries))
  low = entries[0] | (entries[1] << _BITS) | (entries[2] << 2 * _BITS)
  high = entries[3] | (entries[4] << _BITS) | (level << 2 * _BITS)
  return low, high


def counters_at(position: Words, level: Words, community: Words) -> tuple[Words, Words]:
  """Returns the two words that identify a community and its level at a position.

  A community that is green at an even position is not green at the next position, and vice versa.
  Therefore a frequent community of unmarked audio is green half of the time with every key.

  Args:
    position: uint32, below 2046.
    level: uint32, below 4096.
    community: uint32 communities.
  """
  low, high = counters(level, [position >> 1], community)
  return low | ((position & 1) << _INVERTED), high


def words_of(key: Sequence[Words | np.uint32], low: Words, high: Words) -> tuple[Words, ...]:
  """Returns a word for each of `PAYLOAD_BITS`.

  The highest bit is set if a community is green where the payload has a zero. The lowest bits are
  the position in the payload.

  Args:
    key: four uint32 words.
    low: first word of `counters`.
    high: second word of `counters`. At least one array has an axis.
  """
  zero, inverted = low * 0, low >> _INVERTED
  words = threefry(key, (low ^ (inverted << _INVERTED), high, zero, zero))
  return tuple(word ^ (inverted << 31) for word in words[: len(PAYLOAD_BITS)])


def uniform(key: Sequence[Words | np.uint32], low: Words, high: Words) -> Words:
  """Returns a float32 in (0, 1) for each community, small for those that are preferred.

  Args:
    key: four uint32 words.
    low: first word of `counters`.
    high: second word of `counters`. At least one array has an axis.
  """
  zero = low * 0
  word = threefry(key, (low, high, zero, zero))[-1]
  return ((word.astype(np.float32) + 0.5) * 2.0**-32).clip(0, 1 - 2.0**-24)


def is_green(
  key: Sequence[Words | np.uint32],
  low: Words,
  high: Words,
  bits: Words | np.uint32 = NO_PAYLOAD,
  payload: Words | np.uint32 = NO_PAYLOAD,
) -> Words:
  """Returns whether communities are green: half of them, independently of each other.

  Args:
    key: four uint32 words.
    low: first word of `counters`.
    high: second word of `counters`. At least one array has an axis.
    bits: one of `PAYLOAD_BITS`, uint32.
    payload: the payload, uint32.
  """
  words = words_of(key, low, high)
  word: Any = words[0] * 0
  for count, of_count in zip(PAYLOAD_BITS, words, strict=True):
    word = word | (of_count * (bits == count))
  position = word & (bits - (bits > 0))
  return ((word >> 31) ^ ((payload >> position) & 1)).astype(bool)


def threefry(key: Sequence[Words | np.uint32], counter: Sequence[Words]) -> tuple[Words, ...]:
  """Returns Threefry-4x32 with 20 rounds, a pseudo-random function of four words.

  Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
  """
  keys = [*key, key[0] ^ key[1] ^ key[2] ^ key[3] ^ _PARITY]
  x = [word + part for word, part in zip(counter, keys, strict=False)]
  for number in range(20):
    first, second = _ROTATIONS[number % 8]
    # Odd rounds mix the first word with the last one.
    a, b = (1, 3) if number % 2 == 0 else (3, 1)
    for target, source, distance in ((0, a, first), (2, b, second)):
      x[target] = x[target] + x[source]
      x[source] = ((x[source] << distance) | (x[source] >> (32 - distance))) ^ x[target]
    if number % 4 == 3:
      step = number // 4 + 1
      x = [word + keys[(step + i) % 5] for i, word in enumerate(x)]
      x[3] = x[3] + step
  return tuple(x)
