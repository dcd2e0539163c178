"""The keyed green list of a watermark: the communities of codes that a sampler prefers.

A community is a set of codes that are often confused with each other when decoded audio is encoded.
A pseudo-random function (Threefry) of the key, the level, the context and the community determines
whether the community is green. The context is a position in time, or the communities of earlier
codes. With a payload, the function also selects a bit of the payload; if this bit is 1, green and
not green are exchanged.

The function also returns the random number of a community for a distortion-free watermark. NumPy
and JAX compute all operations here with equal results, so sampling and detection have the same
list.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np

# A community has 10 bits in a counter. The largest value stands for an absent entry of the context.
LARGEST_COMMUNITY, ABSENT = 1022, 1023
MOST_CONTEXT = 4
# Possible numbers of bits of a payload. For each number, the green list comes from another word of
# the pseudo-random function, so the lists are independent. Those above 0 are powers of two.
PAYLOAD_BITS = (0, 8, 32)
NO_PAYLOAD = np.uint32(0)
_BITS = 10
# Position of the bit in the first counter word that inverts the list.
_INVERTED = 31
_PARITY = 0x1BD11BDA
_ROTATIONS = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))

Words = TypeVar("Words", np.ndarray, jax.Array)


def counters(level: Words, context: Sequence[Words], community: Words) -> tuple[Words, Words]:
  """Returns the two words that identify a community, its level and its context.

  Args:
    level: uint32, below 4096.
    context: at most `MOST_CONTEXT` arrays of uint32 communities, or `ABSENT`.
    community: uint32 communities, at most `LARGEST_COMMUNITY`.
  """
  entries = [community, *context]
  entries += [community * 0 + ABSENT] * (1 + MOST_CONTEXT - len(entries))
  low = entries[0] | (entries[1] << _BITS) | (entries[2] << 2 * _BITS)
  high = entries[3] | (entries[4] << _BITS) | (level << 2 * _BITS)
  return low, high


def counters_at(position: Words, level: Words, community: Words) -> tuple[Words, Words]:
  """Returns the two words that identify a community and its level at a position.

  A community that is green at an even position `p` is not green at `p + 1`, and vice versa.
  Therefore a frequent community of unmarked audio is green half of the time with every key.

  Args:
    position: uint32, below 2046.
    level: uint32, below 4096.
    community: uint32 communities, at most `LARGEST_COMMUNITY`.
  """
  low, high = counters(level, [position >> 1], community)
  return low | ((position & 1) << _INVERTED), high


def words_of(key: Sequence[Words | np.uint32], low: Words, high: Words) -> tuple[Words, ...]:
  """Returns a uint32 word for each of `PAYLOAD_BITS`.

  The highest bit of a word is 1 if the community is green for a payload bit of 0. The lowest bits
  are the position of this payload bit.

  Args:
    key: four uint32 words.
    low: first word of `counters` or `counters_at`.
    high: second word of `counters` or `counters_at`. At least one array must not be a scalar.
  """
  zero, inverted = low * 0, low >> _INVERTED
  words = threefry(key, (low ^ (inverted << _INVERTED), high, zero, zero))
  return tuple(word ^ (inverted << 31) for word in words[: len(PAYLOAD_BITS)])


def uniform(key: Sequence[Words | np.uint32], low: Words, high: Words) -> Words:
  """Returns a float32 in (0, 1) for each community; sampling prefers small numbers.

  Args:
    key: four uint32 words.
    low: first word of `counters`.
    high: second word of `counters`. At least one array must not be a scalar.
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
  """Returns whether each community is green, which has a probability of 1/2 over random keys.

  Args:
    key: four uint32 words.
    low: first word of `counters` or `counters_at`.
    high: second word of `counters` or `counters_at`. At least one array must not be a scalar.
    bits: number of bits of the payload, one of `PAYLOAD_BITS`, uint32.
    payload: the payload as a number, uint32.
  """
  words = words_of(key, low, high)
  word: Any = words[0] * 0
  for count, of_count in zip(PAYLOAD_BITS, words, strict=True):
    word = word | (of_count * (bits == count))
  position = word & (bits - (bits > 0))
  return ((word >> 31) ^ ((payload >> position) & 1)).astype(bool)


def threefry(key: Sequence[Words | np.uint32], counter: Sequence[Words]) -> tuple[Words, ...]:
  """Returns the four words of Threefry-4x32 with 20 rounds, a pseudo-random function.

  Args:
    key: four uint32 words.
    counter: four arrays of uint32 words.

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
