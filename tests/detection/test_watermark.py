import dataclasses

import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError, UserError
from audiolm_jax.detection import watermark
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig, WatermarkKind

KEY = "000102030405060708090a0b0c0d0e0f"
CONFIG = WatermarkConfig(3, 8, KEY, frames=1, coarser=1)


def test_entries_are_equal_for_equal_communities_contexts_and_levels_only():
  communities = np.array([[0, 0, 1, 1, 2, 2, 3, 3]] * 3)
  codes = np.random.default_rng(0).integers(0, 8, (400, 4))
  found = Watermark(CONFIG, communities).entries(codes)
  known = {}
  for frame in range(1, len(codes)):
    for level in range(3):
      own, before = codes[frame, level] // 2, codes[frame - 1, level] // 2
      facts = level, own, before, codes[frame, 0] // 2 if level else None
      assert known.setdefault(int(found[frame - 1, level]), facts) == facts
  assert found.shape == (399, 3) and len(known) == len(set(known.values())) > 100


def test_entries_by_position_are_those_of_codes_and_repeat_after_the_period():
  config = WatermarkConfig(3, 8, KEY, frames=0, period=5)
  mark = Watermark(config, np.tile(np.arange(8), (3, 1)))
  codes = np.random.default_rng(0).integers(0, 8, (40, 4))
  table = mark.entries_by_position()
  assert table.shape == (5, 3, 8) and len(np.unique(table)) == table.size
  positions = np.arange(3, 43)[:, None] % 5
  np.testing.assert_array_equal(
    mark.entries(codes, start=3), table[positions, np.arange(3), codes[:, :3]]
  )


def test_half_of_the_entries_are_green_and_keys_are_independent():
  mark = Watermark(CONFIG, np.tile(np.arange(8), (3, 1)))
  entries = np.unique(mark.entries(np.random.default_rng(0).integers(0, 8, (2_000, 3))))
  one, other = watermark.is_green(np.array([mark.key, mark.key + 1]), entries)
  assert abs(one.mean() - 0.5) < 0.05 and abs((one == other).mean() - 0.5) < 0.05


def test_payloads_of_each_length_have_lists_of_their_own_and_bits_invert_them():
  mark = Watermark(CONFIG, np.tile(np.arange(8), (3, 1)))
  entries = np.unique(mark.entries(np.random.default_rng(0).integers(0, 8, (4_000, 3))))
  key = mark.key[None]
  lists = [watermark.is_green(key, entries, bytes(size))[0] for size in (0, 1, 4)]
  for one, other in ((0, 1), (0, 2), (1, 2)):
    assert abs((lists[one] == lists[other]).mean() - 0.5) < 0.05
  assert (watermark.is_green(key, entries, b"\xff")[0] == ~lists[1]).all()
  some = watermark.is_green(key, entries, b"\x05\0\0\0")[0] != lists[2]
  assert abs(some.mean() - 2 / 32) < 0.02


def test_a_payload_is_one_byte_or_four():
  assert watermark.payload_words(b"").tolist() == [0, 0]
  assert watermark.payload_words(b"\1\0\0\2").tolist() == [32, 2**24 + 2]
  for payload, words in ((b"12", "is 2 bytes; give 1 or 4"), ("c3", "is 'c3'; give 1 or 4 bytes")):
    with pytest.raises(UserError, match=f"watermark_payload {words}"):
      watermark.payload_words(payload)
  assert watermark.payload_of_hex("C3") == b"\xc3"
  for digits in ("c", "c3c3", "zz", "0x", "c3\n"):
    with pytest.raises(UserError, match="2 or 8 hexadecimal digits"):
      watermark.payload_of_hex(digits)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"key": "00"}, "key of a watermark is '00'"),
    ({"key": KEY.upper()}, "give 32 hexadecimal digits"),
    ({"frames": 3, "coarser": 2}, "at most 4 together"),
    ({"weights": (2,)}, "has 1 weights; give at most one for each level, and a period"),
    ({"period": 9}, "period of a watermark is 9; with a period, frames and coarser must be 0"),
    (
      {"period": 9, "frames": 0, "coarser": 0, "kind": WatermarkKind.GUMBEL, "strength": 1.0},
      "and the kind green_list",
    ),
    ({"kind": WatermarkKind.GUMBEL, "strength": 1.0, "frames": 0}, "set frames to 1 or more"),
    (
      {"kind": WatermarkKind.GUMBEL},
      "strength of a gumbel watermark is 2; it has none, set it to 1",
    ),
  ],
)
def test_configurations_that_no_mark_has_are_refused(fields, words):
  with pytest.raises(ConfigError, match=words):
    dataclasses.replace(CONFIG, **fields)


@pytest.mark.parametrize(
  ("communities", "words"),
  [
    (np.zeros((3, 7), int), r"of shape \(3, 7\); integers of \(3, 8\)"),
    (np.zeros((3, 8)), "are float64"),
    (np.full((3, 8), 1_023), "the range is 0..1022"),
    (np.full((3, 8), -1), r"in -1\.\.-1"),
  ],
)
def test_communities_that_do_not_fit_are_refused(communities, words):
  with pytest.raises(ConfigError, match=words):
    Watermark(CONFIG, communities)


def test_a_key_file_is_any_file_of_16_to_4096_bytes(tmp_path):
  path = tmp_path / "key"
  path.write_bytes(b"x" * 16)
  key = watermark.private_key(watermark.read_key(path))
  assert key.dtype == np.uint32 and (key != watermark.private_key(b"y" * 16)).any()
  for size in (15, 4_097):
    path.write_bytes(b"x" * size)
    with pytest.raises(UserError, match="is no key"):
      watermark.read_key(path)
    with pytest.raises(UserError, match=f"watermark_key is {size} bytes"):
      watermark.private_key(b"x" * size)
  with pytest.raises(UserError, match="is not a file"):
    watermark.read_key(tmp_path)
