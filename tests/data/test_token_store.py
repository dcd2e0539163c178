"""Token stores: round trip, resume, refusal."""

import copy
import dataclasses
import json
import os

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import token_shards, token_store
from audiolm_jax.io import storage


def test_clips_come_back_as_they_were(stored_tokens, random_clip):
  store = token_store.TokenStore(stored_tokens, "hash-a")
  assert len(store) == 6
  for i, clip in enumerate(store.clips()):
    expected = random_clip(i)
    np.testing.assert_array_equal(clip.streams["semantic"], expected.streams["semantic"])
    np.testing.assert_array_equal(clip.streams["codes"], expected.streams["codes"])
    assert (clip.id, clip.split, clip.speaker) == (expected.id, expected.split, expected.speaker)
    assert clip.streams["semantic"].dtype == clip.streams["codes"].dtype == np.uint16
  assert [clip.id for clip in store.clips("valid")] == ["clip5"]


def test_info_counts_clips_hours_tokens_and_speakers(stored_tokens):
  info = token_store.read_info(stored_tokens)
  assert info.clips == {"train": 5, "valid": 1}
  assert info.hours["train"] == pytest.approx(15 / 3600)
  assert info.tokens["semantic"] == 25 * 21
  assert info.tokens["codes"] == 3 * (50 * 21 - 3)
  assert (info.speakers, list(info.shards.values()), info.complete) == (2, [4, 2], True)
  assert "525 semantic" in info.report() and "hash-a" in info.report()


def test_report_states_hours_tokens_speakers_storage_and_what_was_skipped(
  tmp_path, open_writer, random_clip
):
  writer = open_writer(tmp_path)
  writer.add(dataclasses.replace(random_clip(0), seconds=3600.0))
  writer.skip("clip9", "clip9.wav is empty (0 bytes)")
  writer.save()
  assert "unfinished: run cache_tokens again" in token_store.report(tmp_path)
  writer.finish()
  size = next(tmp_path.glob("tokens-*.npz")).stat().st_size / 1e6
  assert token_store.report(tmp_path).splitlines() == [
    "train 1 clips 1.00 h",
    "150 codes and 25 semantic tokens, 1 named speakers, 1 shards, token hash hash-a",
    f"{size:.2f} MB in shards, {size:.2f} MB per hour of audio",
    "1 clips skipped",
    "  clip9: clip9.wav is empty (0 bytes)",
  ]


def test_tokens_of_other_tokenizers_are_refused_in_words(stored_tokens, open_writer):
  with pytest.raises(DataError, match=r"other tokenizers \(hash-a\) than the bundle's \(hash-b\)"):
    token_store.TokenStore(stored_tokens, "hash-b")
  with pytest.raises(DataError, match="another folder"):
    open_writer(stored_tokens, "hash-b")


def test_a_killed_run_resumes_after_its_last_whole_shard(tmp_path, open_writer, random_clip):
  killed = open_writer(tmp_path)
  for i in range(6):  # clips 4 and 5 are pending when it dies
    killed.add(random_clip(i))
  (tmp_path / "tokens-0123456789ab.npz").write_bytes(b"half a shard")
  with pytest.raises(DataError, match="unfinished"):
    token_store.TokenStore(tmp_path)
  resumed = open_writer(tmp_path)
  missing = [i for i in range(7) if f"clip{i}" not in resumed]
  assert missing == [4, 5, 6]
  for i in missing:
    resumed.add(random_clip(i))
  info = resumed.finish()
  assert info.clips == {"train": 6, "valid": 1}
  assert info.tokens["semantic"] == 25 * 28 and info.speakers == 2
  clips = token_store.TokenStore(tmp_path).clips()
  for i, clip in enumerate(clips):
    np.testing.assert_array_equal(clip.streams["codes"], random_clip(i).streams["codes"])


def test_shards_that_a_killed_run_left_unlisted_are_taken_up(tmp_path, open_writer, random_clip):
  listed = open_writer(tmp_path)
  listed.add(random_clip(0))
  listed.flush()
  clips = [random_clip(i) for i in (3, 5)]
  name = token_shards.write_shard(tmp_path, clips, "hash-a")
  assert name == token_shards.write_shard(tmp_path, clips[::-1], "hash-a")
  resumed = open_writer(tmp_path)
  assert [i for i in range(6) if f"clip{i}" in resumed] == [0, 3, 5]
  info = resumed.finish()
  assert info.shards[name] == 2 and info.clips == {"train": 2, "valid": 1}
  assert info.tokens["semantic"] == 25 * (1 + 4 + 6) and info.speakers == 2
  assert info.tokens["codes"] == sum(random_clip(i).streams["codes"].size for i in (0, 3, 5))
  assert len(token_store.TokenStore(tmp_path)) == 3


def test_unlisted_shards_of_other_tokenizers_or_of_the_same_clips_are_refused(
  tmp_path, open_writer, random_clip
):
  token_shards.write_shard(tmp_path, [random_clip(0)], "hash-b")
  with pytest.raises(DataError, match=r"tokens-.*npz of other tokenizers \(hash-b\)"):
    open_writer(tmp_path)


def test_a_clip_in_two_shards_is_refused_with_the_one_to_remove(tmp_path, open_writer, random_clip):
  token_shards.write_shard(tmp_path, [random_clip(0)], "hash-a")
  token_shards.write_shard(tmp_path, [random_clip(0), random_clip(1)], "hash-a")
  with pytest.raises(
    DataError, match=r"clip0 is in tokens-.*two runs wrote at the same time .*: remove"
  ):
    open_writer(tmp_path)


def test_dropped_clips_are_removed_from_their_shards_alone(tmp_path, open_writer, random_clip):
  writer = open_writer(tmp_path)
  for i in range(10):  # three shards, of clips 0 to 3, 4 to 7, 8 and 9
    writer.add(random_clip(i))
  writer.finish()
  first, second, third = (tmp_path / name for name in writer.info.shards)
  before = second.read_bytes(), second.stat().st_mtime_ns
  writer = open_writer(tmp_path)
  writer.add(random_clip(10))  # pending
  writer.drop(["clip1", "clip8", "clip9", "another"])
  assert (second.read_bytes(), second.stat().st_mtime_ns) == before
  assert first.exists() and not third.exists()
  assert [i for i in range(11) if f"clip{i}" in writer] == [0, 2, 3, 4, 5, 6, 7, 10]
  with pytest.raises(DataError, match="unfinished"):
    token_store.TokenStore(tmp_path)
  found = open_writer(tmp_path).finish()
  fresh = open_writer(tmp_path / "fresh")
  for i in (0, 2, 3, 4, 5, 6, 7, 10):
    fresh.add(random_clip(i))
  _assert_same_store(found, tmp_path, fresh.finish(), tmp_path / "fresh")


def test_a_damaged_shard_changes_nothing_when_clips_are_dropped(tmp_path, open_writer, random_clip):
  writer = open_writer(tmp_path)
  for i in range(8):  # two shards
    writer.add(random_clip(i))
  writer.finish()
  writer = open_writer(tmp_path)
  first, second = (tmp_path / name for name in sorted(writer.info.shards))
  before, content = copy.deepcopy(writer.info), first.read_bytes()
  second.write_bytes(b"damaged")
  with pytest.raises(DataError, match=second.name):
    writer.drop([f"clip{i}" for i in range(8)])
  assert writer.info == before
  assert first.read_bytes() == content


def test_a_run_that_is_killed_while_it_drops_clips_leaves_a_valid_store(
  tmp_path, open_writer, random_clip, monkeypatch
):
  fresh = open_writer(tmp_path / "fresh")
  for i in range(6):
    fresh.add(random_clip(i))
  expected = fresh.finish()
  write_whole, remove_file = storage.write_whole, storage.remove_file

  def is_killed(folder, step):
    """Returns whether dropping clips 0, 4 and 5 is killed at a step, or ends before it."""
    left = iter(range(step))

    def counted(real):
      def call(path):
        if next(left, None) is None:
          raise KeyboardInterrupt
        return real(path)

      return call

    with monkeypatch.context() as patch:
      patch.setattr(storage, "write_whole", counted(write_whole))
      patch.setattr(storage, "remove_file", counted(remove_file))
      try:
        open_writer(folder).drop(["clip0", "clip4", "clip5"])
      except KeyboardInterrupt:
        return True
    return False

  killed = []
  for step in range(5):
    folder = tmp_path / str(step)
    writer = open_writer(folder)
    for i in (0, 1, 2, 3):
      writer.add(random_clip(i))
    for i in (4, 5):
      writer.add(dataclasses.replace(random_clip(i + 10), id=f"clip{i}"))  # the old sound
    writer.finish()
    killed.append(is_killed(folder, step))
    resumed = open_writer(folder)
    stored = {i for i in range(6) if f"clip{i}" in resumed}
    assert {1, 2, 3} <= stored and (killed[-1] or stored == {1, 2, 3})
    resumed.drop([f"clip{i}" for i in (0, 4, 5)])
    for i in (0, 4, 5):
      resumed.add(random_clip(i))
    _assert_same_store(resumed.finish(), folder, expected, tmp_path / "fresh")
  # The steps are the description, a shard, the removed shard, and the description.
  assert killed == [True] * 4 + [False]


def _assert_same_store(info, folder, expected, other):
  for name in ("clips", "tokens", "speakers", "skipped", "complete"):
    assert getattr(info, name) == getattr(expected, name), name
  assert info.hours == pytest.approx(expected.hours)
  pairs = zip(*(token_store.TokenStore(f).clips() for f in (folder, other)), strict=True)
  for one, two in pairs:
    assert (one.id, one.split, one.speaker) == (two.id, two.split, two.speaker)
    for key in two.streams:
      np.testing.assert_array_equal(one.streams[key], two.streams[key])


def test_a_store_in_a_bucket_is_like_one_on_disk(stored_tokens, open_writer, random_clip):
  folder = "memory://bucket/store"
  writer = open_writer(folder)
  for i in range(5):
    writer.add(random_clip(i))
  resumed = open_writer(folder)  # clip 4 was pending when the first one died
  assert "clip3" in resumed and "clip4" not in resumed
  resumed.add(random_clip(4))
  resumed.add(random_clip(5))
  assert resumed.finish() == token_store.read_info(stored_tokens)
  for there, here in zip(
    token_store.TokenStore(folder).clips(),
    token_store.TokenStore(stored_tokens).clips(),
    strict=True,
  ):
    assert there.id == here.id
    np.testing.assert_array_equal(there.streams["codes"], here.streams["codes"])
  assert token_shards.shard_files(folder).keys() == token_shards.shard_files(stored_tokens).keys()
  with pytest.raises(DataError, match=r"memory://bucket/none is not a token store"):
    token_store.TokenStore("memory://bucket/none")


def test_long_clips_make_a_shard_sooner(tmp_path, open_writer, random_clip):
  writer = open_writer(tmp_path)
  writer.add(dataclasses.replace(random_clip(0), seconds=1000.0))
  assert not writer.info.shards
  writer.add(dataclasses.replace(random_clip(1), seconds=1000.0))
  assert list(writer.info.shards.values()) == [2]


def test_failed_write_leaves_the_store_as_it_was(tmp_path, open_writer, random_clip, monkeypatch):
  writer = open_writer(tmp_path)
  for i in range(4):
    writer.add(random_clip(i))
  before = sorted(os.listdir(tmp_path))

  def full_disk(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(np, "savez_compressed", full_disk)
  writer.add(random_clip(4))
  with pytest.raises(ValueError, match="No space left"):
    writer.flush()
  assert sorted(os.listdir(tmp_path)) == before
  assert len(token_store.TokenStore(tmp_path, allow_incomplete=True)) == 4


def test_skipped_clips_are_noted_and_tried_again(tmp_path, open_writer, random_clip):
  writer = open_writer(tmp_path)
  writer.skip("clip0", "clip0.wav is empty")
  assert "clip0.wav is empty" in writer.finish().report()
  again = open_writer(tmp_path)
  assert "clip0" not in again
  again.add(random_clip(0))
  assert again.finish().skipped == {}


def test_the_same_clip_twice_is_refused(tmp_path, open_writer, random_clip):
  writer = open_writer(tmp_path)
  writer.add(random_clip(0))
  with pytest.raises(DataError, match="unique"):
    writer.add(random_clip(0))


def test_large_ids_are_stored_wider_and_negative_ones_refused(tmp_path, open_writer):
  writer = open_writer(tmp_path)
  streams = writer.info.streams
  streams["semantic"] = dataclasses.replace(streams["semantic"], size=80_000)
  writer.add(token_shards.TokenClip("a", {"semantic": np.array([70_000])}))
  with pytest.raises(DataError, match="integers of at least 0"):
    writer.add(token_shards.TokenClip("b", {"semantic": np.array([-1])}))
  writer.finish()
  assert token_store.TokenStore(tmp_path).clips()[0].streams["semantic"].tolist() == [70_000]


def test_a_store_of_one_stream_has_none_of_the_other(tmp_path, open_writer):
  writer = open_writer(tmp_path)
  writer.add(token_shards.TokenClip("a", {"codes": np.array([[1, 2, 3]])}))
  writer.finish()
  clip = token_store.TokenStore(tmp_path).clips()[0]
  assert {key: s.tolist() for key, s in clip.streams.items()} == {"codes": [[1, 2, 3]]}


def rewritten(folder, name, change):
  """Writes the shard of another store in the place of one of a store, after a change."""
  with np.load(folder / name) as arrays:
    content = dict(arrays)
  change(content)
  np.savez_compressed(folder / name, **content)


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda a: a.update(token_hash=np.array("hash-b")), "of other tokenizers .hash-b. than store"),
    (lambda a: a.update({"stream:codes": a["stream:codes"] * 1.0}), "codes is float64 of shape"),
    (lambda a: a.update({"stream:codes": a["stream:codes"].astype(np.int16)}), "codes is int16"),
    (lambda a: a.update({"stream:codes": a["stream:codes"] + np.uint16(9)}), "states 3 levels of"),
    (lambda a: a.update({"stream:codes": a["stream:codes"][:, :2]}), "its clips have"),
    (lambda a: a.update({"lengths:codes": a["lengths:codes"] + 1}), "its clips have"),
    (lambda a: a.update(ids=a["ids"][:1]), "its clips differ in number"),
    (lambda a: a.update(seconds=a["seconds"] * np.nan), "seconds of its clips are not numbers"),
  ],
)
def test_a_shard_that_is_not_what_the_store_describes_is_refused(
  tmp_path, open_writer, random_clip, change, words
):
  writer = open_writer(tmp_path)
  for i in range(3):
    writer.add(random_clip(i))
  (name,) = writer.finish().shards
  rewritten(tmp_path, name, change)
  with pytest.raises(DataError, match=words) as caught:
    token_store.TokenStore(tmp_path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda s: s.update(clips={"train": "many"}), "it must be a whole number"),
    (lambda s: s.update(shards={"../x.npz": 1}), "a shard is called"),
    (lambda s: s.update(speakers=10**4000), "it must be within"),
    (lambda s: s.update(token_hash="\ud800"), "surrogate"),
    (lambda s: s.update(skipped={"a": json.loads("[" * 100 + "]" * 100)}), "levels deep"),
    (lambda s: s["streams"].update(codes=7), "it must be a JSON object"),
  ],
)
def test_a_description_that_is_not_one_is_refused_in_one_line(
  tmp_path, open_writer, random_clip, change, words
):
  writer = open_writer(tmp_path)
  writer.add(random_clip(0))
  writer.finish()
  content = json.loads((tmp_path / "store.json").read_text())
  change(content)
  (tmp_path / "store.json").write_text(json.dumps(content))
  with pytest.raises(DataError, match=words) as caught:
    token_store.TokenStore(tmp_path)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_no_store_damaged_store_and_later_format_are_refused(tmp_path, open_writer, random_clip):
  with pytest.raises(DataError, match="is not a token store"):
    token_store.TokenStore(tmp_path)
  writer = open_writer(tmp_path / "s")
  for i in range(4):
    writer.add(random_clip(i))
  writer.finish()
  path = tmp_path / "s" / "store.json"
  fields = json.loads(path.read_text())
  shard = next((tmp_path / "s").glob("tokens-*.npz"))
  shard.write_bytes(shard.read_bytes()[:-50])
  with pytest.raises(DataError, match=r"tokens-.*npz is damaged"):
    token_store.TokenStore(tmp_path / "s")
  path.write_text(json.dumps(fields | {"format_version": 99}))
  with pytest.raises(DataError, match="format version 99"):
    token_store.TokenStore(tmp_path / "s")
  path.write_text("{")
  with pytest.raises(DataError, match="damaged"):
    token_store.TokenStore(tmp_path / "s")


def test_unwritable_folder_is_reported(tmp_path, open_writer):
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="cannot create the folder"):
    open_writer(tmp_path / "file" / "store")


def test_names_of_files_that_are_not_utf_8_are_kept(tmp_path, open_writer, random_clip):
  writer = open_writer(tmp_path)
  writer.add(dataclasses.replace(random_clip(0), id="caf\udce9.wav"))
  writer.skip("th\udce9.wav", "silent")
  writer.finish()
  store = token_store.TokenStore(tmp_path)
  assert store.clips()[0].id == "caf\udce9.wav" and store.info.skipped == {"th\udce9.wav": "silent"}


@pytest.mark.parametrize("name", ["store.json", "shard"])
def test_pipes_in_the_place_of_files_are_refused(tmp_path, open_writer, random_clip, name):
  writer = open_writer(tmp_path)
  writer.add(random_clip(0))
  (shard,) = writer.finish().shards
  path = tmp_path / (shard if name == "shard" else name)
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(DataError, match="not a regular file"):
    token_store.TokenStore(tmp_path)
