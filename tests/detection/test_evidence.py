import math

import numpy as np
import pytest

from audiolm_jax.detection import evidence
from audiolm_jax.detection.evidence import Evidence, log10_gamma_tail, log10_tails, match
from audiolm_jax.detection.watermark import (
  Watermark,
  WatermarkConfig,
  WatermarkKind,
  is_green,
  marks_of,
)

RATE, SIZE = 10.0, 16
MARK = Watermark(WatermarkConfig(2, SIZE, "0" * 32, frames=1), np.tile(np.arange(SIZE), (2, 1)))

GUMBEL = Watermark(
  WatermarkConfig(2, SIZE, "0" * 32, strength=1.0, frames=1, kind=WatermarkKind.GUMBEL),
  MARK.communities,
)

POSITION = Watermark(
  WatermarkConfig(2, SIZE, "0" * 32, frames=0, period=7, weights=(3,)), MARK.communities
)


def test_tails_are_the_exact_ones():
  for total in (0, 1, 9, 60):
    parts = ((1, total),)
    exact = [sum(math.comb(total, j) for j in range(k, total + 1)) for k in range(total + 1)]
    expected = [math.log10(n) - total * math.log10(2) for n in exact]
    np.testing.assert_allclose(log10_tails(parts), expected, atol=1e-12)
  assert log10_tails(((1, 5_000),))[-1] == pytest.approx(-5_000 * math.log10(2))
  assert log10_tails(((1, 2_000), (3, 1_000)))[-1] == pytest.approx(-3_000 * math.log10(2))
  sums = [a + b + 3 * c for a in (0, 1) for b in (0, 1) for c in (0, 1)]
  expected = [np.log10(np.mean([x >= k for x in sums])) for k in range(6)]
  np.testing.assert_allclose(log10_tails(((1, 2), (3, 1))), expected, atol=1e-12)


def test_tails_of_sums_of_scores_are_the_exact_ones():
  for count, value in ((1, 0.5), (3, 7.0), (40, 90.0)):
    exact = sum(value**k / math.factorial(k) for k in range(count)) * math.exp(-value)
    assert log10_gamma_tail(count, value) == pytest.approx(math.log10(exact))
  assert log10_gamma_tail(0, 0.0) == log10_gamma_tail(9, 0.0) == 0.0
  assert log10_gamma_tail(1, 5_000.0) == pytest.approx(-5_000 / math.log(10))


def keys_of(count, seed=0):
  return np.random.default_rng(seed).integers(0, 2**32, (count, 4), dtype=np.uint32)


def repetitive_codes(frames, offsets, seed=0):
  """Codes with long repeats and a few frequent values, which differ little between offsets."""
  rng = np.random.default_rng(seed)
  values = rng.choice(SIZE, size=(frames, 2), p=rng.dirichlet(np.full(SIZE, 0.2)))
  codes = np.repeat(values, rng.integers(1, 8, frames), axis=0)[:frames]
  other = rng.integers(0, SIZE, (offsets, frames, 2))
  return np.where(rng.random(other.shape) < 0.2, other, codes)


def find(codes, keys, piece=37, mark=MARK):
  found = Evidence(mark, keys, RATE, len(codes))
  for start in range(0, codes.shape[1], piece):
    found.push(codes[:, start : start + piece])
  return found.finish()


@pytest.mark.parametrize("mark", [MARK, GUMBEL, POSITION], ids=["codes", "gumbel", "position"])
@pytest.mark.parametrize("frames", [30, 300])
def test_p_values_of_repetitive_codes_are_not_below_their_nominal_rate(frames, mark):
  keys = keys_of(400)
  found = [find(repetitive_codes(frames, 2, seed), keys, mark=mark) for seed in range(4)]
  together = np.concatenate([one.log10_p for one in found])
  of_bits = np.concatenate([one.best.log10_p for one in found], axis=1)
  for log10_p in (together, *of_bits):
    p = 10**log10_p
    for nominal in (0.2, 0.05, 0.005):
      error = math.sqrt(nominal / len(p)) * 4
      assert (p <= nominal).mean() <= nominal + error
  assert together.min() < -0.5  # codes and keys differ in their evidence


def test_repeats_count_once():
  entries = MARK.entries(repetitive_codes(200, 1)[0]).ravel()
  marks = marks_of(keys_of(20), entries)
  found, again = match(entries, marks), match(np.tile(entries, 3), np.tile(marks, 3))
  for one, other in zip(found, again, strict=True):
    np.testing.assert_array_equal(one, other)
  green = is_green(keys_of(20), entries)
  assert found.log10_p[0].min() > log10_tails(((1, len(entries)),))[green.sum(axis=1).max()]


def test_votes_of_each_bit_are_those_of_inverted_lists():
  keys, entries = keys_of(2), np.unique(MARK.entries(repetitive_codes(300, 1)[0]))
  found = match(entries, marks_of(keys, entries))
  for kind, bits in ((1, 8), (2, 32)):
    for position in range(bits):
      # A single bit inverts the entries of its position, all of which vote for one of its values.
      with_bit = is_green(keys, entries, (1 << position).to_bytes(bits // 8, "big"))
      without = is_green(keys, entries, bytes(bits // 8))
      votes = with_bit.sum(axis=1) - without.sum(axis=1)
      np.testing.assert_array_equal(found.votes[kind, :, position], votes)
    green = (len(entries) + np.abs(found.votes[kind]).sum(axis=1)) // 2
    expected = np.minimum(log10_tails(((1, len(entries)),))[green] + bits * math.log10(2), 0)
    np.testing.assert_allclose(found.log10_p[kind], expected)
  assert not found.votes[0].any() and not found.votes[1, :, 8:].any()


def marked_codes(frames, key, seed=0):
  """Codes of which each is the first green one of four that are drawn."""
  rng = np.random.default_rng(seed)
  codes = np.zeros((frames, 2), int)
  for frame in range(1, frames):
    for candidate in rng.integers(0, SIZE, (4, 2)):
      trial = np.stack([codes[frame - 1], candidate])
      green = is_green(key[None], MARK.entries(trial).ravel())[0]
      codes[frame] = np.where(green | (codes[frame] == 0), candidate, codes[frame])
  return codes


def test_a_mark_is_found_at_one_offset_in_any_pieces_and_in_its_seconds_only():
  key = keys_of(2)
  codes = np.random.default_rng(1).integers(0, SIZE, (4, 400, 2))
  codes[2, 150:350] = marked_codes(200, key[0])
  found = find(codes, key)
  assert found.log10_p[0] < -6 < -2 < found.log10_p[1]
  assert found.per_second.shape == (40, 2)
  assert found.per_second[20:30, 0].max() < -3 < found.per_second[:10, 0].min()
  for piece in (1, 400):
    other = find(codes, key, piece)
    np.testing.assert_allclose(other.log10_p, found.log10_p)
    np.testing.assert_allclose(other.per_second, found.per_second)


@pytest.mark.parametrize("keys_together", [1, 64])
def test_a_mark_by_position_is_found_from_any_first_frame_on(keys_together, monkeypatch):
  monkeypatch.setattr(evidence, "_KEYS_TOGETHER", keys_together)
  keys, rng = keys_of(3), np.random.default_rng(1)
  codes = rng.integers(0, SIZE, (4, 400, 2))
  drawn = rng.integers(0, SIZE, (4, 400, 2))
  entries = np.stack([POSITION.entries(row) for row in drawn])
  green = is_green(keys[1:2], entries.ravel())[0].reshape(entries.shape)
  chosen = np.take_along_axis(drawn, green.argmax(axis=0)[None], axis=0)[0]
  codes[2, 150:350] = chosen[153:353]
  found = find(codes, keys, mark=POSITION)
  assert found.log10_p[1] < -8 < -2 < min(found.log10_p[0], found.log10_p[2])
  assert found.per_second[20:30, 1].max() < -3 < found.per_second[:10, 1].min()
  for piece in (1, 400):
    other = find(codes, keys, piece, POSITION)
    np.testing.assert_allclose(other.log10_p, found.log10_p)
    np.testing.assert_allclose(other.per_second, found.per_second)
  monkeypatch.setattr(evidence, "WHOLE_SECONDS", 15.0)
  np.testing.assert_allclose(find(codes, keys, 25, POSITION).per_second, found.per_second)


def test_long_clips_need_bounded_memory_and_keep_their_windows(monkeypatch):
  key = keys_of(1)
  codes = np.random.default_rng(1).integers(0, SIZE, (2, 600, 2))
  codes[1, 400:500] = marked_codes(100, key[0])
  whole = find(codes, key)
  monkeypatch.setattr(evidence, "WHOLE_SECONDS", 15.0)
  found = Evidence(MARK, key, RATE, 2)
  kept = []
  for start in range(0, 600, 25):
    found.push(codes[:, start : start + 25])
    kept.append(found._trials._entries.shape[1])  # pyright: ignore[reportAttributeAccessIssue]: codes are its context
  assert max(kept) < 200 and max(kept[8:]) < 80
  np.testing.assert_allclose(found.finish().per_second, whole.per_second)


def test_a_clip_without_a_frame_of_context_has_no_evidence():
  found = find(np.zeros((3, 1, 2), int), keys_of(2))
  np.testing.assert_array_equal(found.log10_p, 0.0)
