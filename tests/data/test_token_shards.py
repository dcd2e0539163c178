"""Single files of a token store."""

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import token_shards


def _write(folder, random_clip, *numbers):
  return token_shards.write_shard(folder, [random_clip(i) for i in numbers], "hash-a")


def test_a_shard_gives_back_its_clips_and_how_many_tokens_they_have(tmp_path, random_clip):
  name = _write(tmp_path, random_clip, 0, 3)
  (whole,) = token_shards.read_shards(tmp_path, [name])
  (listed,) = token_shards.read_shards(tmp_path, [name], tokens=False)
  for i, clip, without in zip((0, 3), whole.clips, listed.clips, strict=True):
    assert (clip.id, clip.split, clip.speaker) == (without.id, without.split, without.speaker)
    np.testing.assert_array_equal(clip.streams["codes"], random_clip(i).streams["codes"])
    np.testing.assert_array_equal(clip.streams["semantic"], random_clip(i).streams["semantic"])
    assert not without.streams
  assert whole.counts == listed.counts == [token_shards.count_tokens(c) for c in whole.clips]
  assert whole.token_hash == "hash-a"


def test_a_damaged_shard_is_refused_or_left_out(tmp_path, random_clip):
  names = [_write(tmp_path, random_clip, i) for i in range(3)]
  path = tmp_path / names[1]
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(DataError, match=f"{names[1]} is damaged or missing"):
    list(token_shards.read_shards(tmp_path, names))
  kept = token_shards.read_shards(tmp_path, names, skip_damaged=True)
  assert [shard.name for shard in kept] == [names[0], names[2]]


def test_many_shards_are_read_at_a_time_and_come_in_order(tmp_path, random_clip):
  names = [_write(tmp_path, random_clip, i) for i in range(20)]
  for _ in range(20):
    shards = token_shards.read_shards(tmp_path, names)
    assert [shard.clips[0].id for shard in shards] == [f"clip{i}" for i in range(20)]


def test_clips_of_which_some_have_a_stream_make_no_shard(tmp_path, random_clip):
  clips = [random_clip(0), token_shards.TokenClip("b", {"semantic": np.array([1, 2])})]
  with pytest.raises(DataError, match="some clips have codes tokens and some have none"):
    token_shards.write_shard(tmp_path, clips, "hash-a")
  assert not list(tmp_path.iterdir())
