import jax
import numpy as np
import pytest

from audiolm_jax.detection import green_list
from audiolm_jax.detection.green_list import ABSENT


def words(text):
  return [np.array([int(word, 16)], np.uint32) for word in text.split()]


@pytest.mark.parametrize(
  ("key", "counter", "expected"),
  [
    ("0 0 0 0", "0 0 0 0", "9c6ca96a e17eae66 fc10ecd4 5256a7d8"),
    (" ".join(["ffffffff"] * 4), " ".join(["ffffffff"] * 4), "2a881696 57012287 f6c7446e a16a6732"),
    (
      "a4093822 299f31d0 082efa98 ec4e6c89",
      "243f6a88 85a308d3 13198a2e 03707344",
      "59cd1dbb b8879579 86b5d00c ac8b6d84",
    ),
  ],
)
def test_the_cipher_has_the_published_values(key, counter, expected):
  assert green_list.threefry(words(key), words(counter)) == tuple(words(expected))


def test_numpy_and_jax_have_the_same_list():
  rng = np.random.default_rng(0)
  key = rng.integers(0, 2**32, 4, dtype=np.uint32)
  level = np.repeat(np.arange(4, dtype=np.uint32), 5_000)
  context = [*rng.integers(0, 1_023, (3, len(level)), dtype=np.uint32)]
  context.append(np.full(len(level), ABSENT, np.uint32))
  community = rng.integers(0, 1_023, len(level), dtype=np.uint32)

  def green(key, level, context, community):
    return green_list.is_green(list(key), *green_list.counters(level, context, community))

  expected = green(key, level, context, community)
  assert 0.48 < expected.mean() < 0.52
  found = jax.jit(green)(key, level, context, community)
  np.testing.assert_array_equal(found, expected)


def test_every_part_of_a_code_changes_its_counter():
  rng = np.random.default_rng(1)
  entries = rng.integers(0, 3, (6, 9_000)).astype(np.uint32)
  counters = green_list.counters(entries[0], [*entries[1:5]], entries[5])
  assert len(np.unique(counters, axis=1).T) == len(np.unique(entries, axis=1).T) == 3**6
