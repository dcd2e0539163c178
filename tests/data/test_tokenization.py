"""Audio to token stores through a bundle's tokenizers."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import SOURCE_SEMANTIC, TEXT, Role
from audiolm_jax.data import audio_shards, manifest, token_store, tokenization
from audiolm_jax.io import audio
from audiolm_jax.lm import text


def _tokenize(bundle, source, folder, **settings):
  settings = {"progress": False, "clips_per_shard": 2} | settings
  return tokenization.tokenize_corpus(bundle, source, folder, **settings)


def _tokenize_alone(bundle, clip):
  (found,) = tokenization.tokenize_shard(
    bundle, audio_shards.ClipShard((clip,)), batch_size=1
  ).clips
  return found


def test_stored_tokens_are_the_bundles_tokens_of_the_whole_files(
  miniature_bundle, corpus, tmp_path
):
  done = _tokenize(miniature_bundle, corpus, tmp_path)
  assert done.info.clips == {"train": 5, "valid": 2} and done.info.complete
  assert done.info.token_hash == miniature_bundle.token_hash
  assert done.info.streams["codes"].levels == 4 and done.info.streams["semantic"].size == 16
  assert done.seconds_of_audio == pytest.approx(0.3 * 28, abs=1e-3)
  store = token_store.TokenStore(tmp_path, miniature_bundle.token_hash)
  for clip, source in zip(store.clips(), manifest.list_clips(corpus), strict=True):
    waveform = manifest.read_clip(source, 16_000)[None]
    np.testing.assert_array_equal(clip.streams["codes"], miniature_bundle.codec.encode(waveform)[0])
    np.testing.assert_array_equal(
      clip.streams["semantic"], miniature_bundle.semantic.tokenize(waveform)[0]
    )
    assert (clip.split, clip.speaker) == (source.split, source.speaker)


@pytest.mark.parametrize(("key", "unused"), [("semantic", "codec"), ("codes", "semantic")])
def test_a_store_can_have_one_of_the_two_streams(
  miniature_bundle, corpus, tmp_path, monkeypatch, key, unused
):
  complete = _tokenize(miniature_bundle, corpus, tmp_path / "all").info
  for name in ("encode_long", "encode_clips", "tokenize_long", "tokenize_clips"):
    part = getattr(miniature_bundle, unused)
    if hasattr(part, name):
      monkeypatch.setattr(part, name, lambda *_: pytest.fail(f"the {unused} is used"))
  for batch_size in (1, 3):
    folder = tmp_path / str(batch_size)
    done = _tokenize(miniature_bundle, corpus, folder, streams=(key,), batch_size=batch_size)
    assert done.info.streams == {key: complete.streams[key]}
    assert done.info.tokens == {key: complete.tokens[key]}
    pairs = zip(
      token_store.TokenStore(folder).clips(),
      token_store.TokenStore(tmp_path / "all").clips(),
      strict=True,
    )
    for clip, other in pairs:
      assert list(clip.streams) == [key]
      np.testing.assert_array_equal(clip.streams[key], other.streams[key])
    with pytest.raises(DataError, match=f"are {key}, not codes and semantic; choose another"):
      _tokenize(miniature_bundle, corpus, folder)


def test_a_second_run_does_only_what_is_missing(miniature_bundle, corpus, tmp_path, monkeypatch):
  real = audio_shards.open_clip
  seen = []

  def dies_at_the_sixth(clip, sample_rate):
    if len(seen) == 5:
      raise KeyboardInterrupt
    seen.append(clip.id)
    return real(clip, sample_rate)

  monkeypatch.setattr(audio_shards, "open_clip", dies_at_the_sixth)
  with pytest.raises(KeyboardInterrupt):
    _tokenize(miniature_bundle, corpus, tmp_path, num_workers=1)
  assert len(token_store.TokenStore(tmp_path, allow_incomplete=True)) == 4
  done_before = set(seen[:4])
  seen.clear()
  monkeypatch.setattr(
    audio_shards, "open_clip", lambda clip, rate: seen.append(clip.id) or real(clip, rate)
  )
  assert _tokenize(miniature_bundle, corpus, tmp_path).info.clips == {"train": 5, "valid": 2}
  assert len(seen) == 3 and not done_before & set(seen)
  seen.clear()
  assert _tokenize(miniature_bundle, corpus, tmp_path).info.complete and not seen


def test_texts_are_stored_as_written_if_a_corpus_has_any(miniature_bundle, corpus, tmp_path):
  sound = Path(manifest.list_clips(corpus)[0].path)
  rows = [
    {"path": f"{name}.wav", "split": "train"} | ({"text": words} if words else {})
    for name, words in (("a", "In 2."), ("b", ""), ("c", ""), ("d", ""))
  ]
  for row in rows:
    (tmp_path / row["path"]).write_bytes(sound.read_bytes())
  (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  done = _tokenize(miniature_bundle, tmp_path / "m.jsonl", tmp_path / "store")
  assert done.info.streams[TEXT.key] == TEXT and done.info.tokens[TEXT.key] == 5
  clips = token_store.TokenStore(tmp_path / "store").clips()
  # The two clips of the other shard have no such stream.
  stored = {clip.id: clip.streams[TEXT.key] for clip in clips if TEXT.key in clip.streams}
  assert len(clips) == 4 and len(stored) == 2
  assert sorted(map(text.of_code_points, stored.values())) == ["", "In 2."]
  assert text.of_code_points(stored["a.wav"]) == "In 2."


@pytest.fixture
def pairs(corpus, tmp_path):
  """Manifest of four clips, two of which are renderings of a recording in another folder."""
  sounds = [Path(clip.path).read_bytes() for clip in manifest.list_clips(corpus)[2::2]]
  for name, sound in zip(("a.wav", "b.wav", "source/a.wav"), sounds, strict=True):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(sound)
  for name in ("c.wav", "d.wav"):
    (tmp_path / name).write_bytes(sounds[0])
  rows = [{"path": f"{name}.wav", "split": "train"} for name in "abcd"]
  rows[0]["source_path"] = "source/a.wav"
  rows[3]["source_path"] = "b.wav"
  (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return tmp_path / "pairs.jsonl"


def test_the_tokens_of_a_source_are_stored_beside_those_of_its_clip(miniature_bundle, pairs):
  folder = pairs.with_name("store")
  done = _tokenize(miniature_bundle, pairs, folder, clips_per_shard=3)
  stream = done.info.streams[SOURCE_SEMANTIC]
  assert stream.role is Role.SOURCE and (stream.rate, stream.size) == (25.0, 16)
  by_id = {clip.id: clip for clip in token_store.TokenStore(folder).clips()}
  for name, source in (("a.wav", "source/a.wav"), ("d.wav", "b.wav")):
    waveform = manifest.read_clip(manifest.AudioClip("", str(pairs.parent / source)), 16_000)
    expected = miniature_bundle.semantic.tokenize_long(waveform)
    np.testing.assert_array_equal(by_id[name].streams[SOURCE_SEMANTIC], expected)
    assert len(expected) != len(by_id[name].streams["semantic"])
  # The other clips of the first shard have an empty source; the second shard has sources only.
  assert len(by_id["b.wav"].streams[SOURCE_SEMANTIC]) == 0
  (clip,) = (clip for clip in manifest.list_clips(pairs) if clip.id == "d.wav")
  alone = _tokenize_alone(miniature_bundle, clip)
  np.testing.assert_array_equal(alone.streams[SOURCE_SEMANTIC], expected)


def test_a_store_of_codes_has_no_sources_and_reads_none(miniature_bundle, pairs):
  pairs.with_name("source").joinpath("a.wav").write_bytes(b"not audio")
  done = _tokenize(miniature_bundle, pairs, pairs.with_name("store"), streams=("codes",))
  assert set(done.info.streams) == {"codes"} and not done.info.skipped


def test_a_clip_without_a_readable_source_is_skipped_and_a_changed_source_is_refused(
  miniature_bundle, pairs
):
  source, folder = pairs.with_name("source") / "a.wav", pairs.with_name("store")
  sound = source.read_bytes()
  source.write_bytes(b"not audio")
  done = _tokenize(miniature_bundle, pairs, folder, max_skipped_fraction=0.3)
  assert done.info.skipped["a.wav"].startswith("its source: ")
  assert str(source) in done.info.skipped["a.wav"]
  source.write_bytes(sound)
  assert not _tokenize(miniature_bundle, pairs, folder).info.skipped
  source.write_bytes(sound[:-2] + bytes([sound[-2] ^ 1, sound[-1]]))
  with pytest.raises(DataError, match=r"1 clips of .* have changed .* as a\.wav \(other content\)"):
    _tokenize(miniature_bundle, pairs, folder)
  source.unlink()
  with pytest.raises(DataError, match=r"a\.wav \(cannot be read any more\)"):
    _tokenize(miniature_bundle, pairs, folder)


def test_long_clips_are_tokenized_in_slices_with_the_same_result(
  miniature_bundle, corpus, monkeypatch
):
  shard = audio_shards.ClipShard(tuple(manifest.list_clips(corpus)))
  expected = tokenization.tokenize_shard(miniature_bundle, shard)
  monkeypatch.setattr(manifest, "_LONG_SECONDS", 0.5)
  opened = [type(clip.waveform) for clip in shard.read(16_000, 2)]  # pyright: ignore[reportAttributeAccessIssue]: all clips are decoded
  assert opened.count(audio.SlicedAudio) == 6 and opened.count(np.ndarray) == 1
  found = tokenization.tokenize_shard(miniature_bundle, shard)
  for one, other in zip(found.clips, expected.clips, strict=True):
    assert (one.id, one.seconds) == (other.id, other.seconds)
    for key in one.streams:
      np.testing.assert_array_equal(one.streams[key], other.streams[key])


def test_clips_that_changed_after_they_were_tokenized_are_refused(
  miniature_bundle, corpus, tmp_path
):
  sound = Path(manifest.list_clips(corpus)[0].path).read_bytes()
  source, store = tmp_path / "sound", tmp_path / "store"
  source.mkdir()
  for name in ("a.wav", "b.wav"):
    (source / name).write_bytes(sound)
  (tmp_path / "m.jsonl").write_text('{"path": "sound/a.wav"}\n{"path": "sound/b.wav"}')
  for given in (source, tmp_path / "m.jsonl"):
    _tokenize(miniature_bundle, given, store / given.name)
    (source / "b.wav").write_bytes(sound + bytes(100))
    with pytest.raises(
      DataError, match=r"1 clips of .* have changed .* such as (sound/)?b\.wav \("
    ):
      _tokenize(miniature_bundle, given, store / given.name)
    # The size remains.
    (source / "b.wav").write_bytes(sound[:-2] + bytes([sound[-2] ^ 1, sound[-1]]))
    with pytest.raises(DataError, match=r"1 clips of .* as (sound/)?b\.wav \(other content\); re"):
      _tokenize(miniature_bundle, given, store / given.name)
    assert token_store.read_info(store / given.name).complete  # a refusal changes nothing
    (source / "b.wav").write_bytes(sound)
    assert _tokenize(miniature_bundle, given, store / given.name).info.complete
  (source / "b.wav").unlink()
  with pytest.raises(DataError, match=r"1 clips of .* not in the corpus any more, such as b\.wav"):
    _tokenize(miniature_bundle, source, store / source.name)
  with pytest.raises(DataError, match=r"such as sound/b\.wav \(cannot be read any more\)"):
    _tokenize(miniature_bundle, tmp_path / "m.jsonl", store / "m.jsonl")


def test_changed_clips_are_tokenized_again_and_removed_ones_dropped_if_asked_for(
  miniature_bundle, corpus, tmp_path
):
  source, store = tmp_path / "sound", tmp_path / "store"
  source.mkdir()
  sounds = [Path(clip.path).read_bytes() for clip in manifest.list_clips(corpus)[:3]]
  for name, sound in zip("abcdef", [*sounds, *sounds], strict=True):
    (source / f"{name}.wav").write_bytes(sound)
  settings = {"replace_changed": True, "valid_fraction": 0.3, "max_skipped_fraction": 0.3}
  first = _tokenize(miniature_bundle, source, store, **settings)
  assert (first.changed, first.removed) == (0, 0)
  (source / "a.wav").write_bytes(sounds[1])
  (source / "b.wav").write_bytes(b"no sound")
  (source / "c.wav").unlink()
  with pytest.raises(
    DataError,
    match=r"^2 clips of .* changed .*, and 1 clips of .* not in the corpus any more, such as "
    r"c\.wav; restore them, choose another --output_dir, or give --replace_changed, which .*",
  ):
    _tokenize(miniature_bundle, source, store)
  kept = {p: p.stat().st_mtime_ns for p in store.glob("tokens-*.npz")}
  done = _tokenize(miniature_bundle, source, store, **settings)
  assert (done.changed, done.removed) == (1, 1) and list(done.info.skipped) == ["b.wav"]
  assert done.seconds_of_audio == pytest.approx(
    sum(c.seconds for c in token_store.TokenStore(store).clips() if c.id == "a.wav")
  )
  assert sum(p.exists() and p.stat().st_mtime_ns == t for p, t in kept.items()) >= 1
  fresh = _tokenize(miniature_bundle, source, tmp_path / "fresh", **settings)
  assert (done.info.clips, done.info.tokens) == (fresh.info.clips, fresh.info.tokens)
  pairs = [token_store.TokenStore(folder).clips() for folder in (store, tmp_path / "fresh")]
  for one, other in zip(*pairs, strict=True):
    assert (one.id, one.split, one.content) == (other.id, other.split, other.content)
    for key in other.streams:
      np.testing.assert_array_equal(one.streams[key], other.streams[key])
  again = _tokenize(miniature_bundle, source, store, **settings)
  assert (again.changed, again.removed, again.seconds_of_audio) == (0, 0, 0.0)


@pytest.mark.parametrize(("batch_size", "long_seconds"), [(1, 60.0), (2, 60.0), (4, 1.0)])
def test_tokens_of_a_shard_equal_those_of_each_clip_alone(
  miniature_bundle, corpus, monkeypatch, batch_size, long_seconds
):
  monkeypatch.setattr(tokenization, "_LONG_SECONDS", long_seconds)
  monkeypatch.setattr(tokenization, "_SECONDS_TOGETHER", 4.0)
  clips = manifest.list_clips(corpus)
  counted = []
  tokens = tokenization.tokenize_shard(
    miniature_bundle,
    audio_shards.ClipShard(tuple(clips)),
    batch_size=batch_size,
    count=lambda *done: counted.append(done),
  )
  assert len(counted) > 1 and sum(count for count, _ in counted) == 7
  assert sum(seconds for _, seconds in counted) == pytest.approx(0.3 * 28, abs=1e-3)
  for clip, found in zip(clips, tokens.clips, strict=True):
    alone = _tokenize_alone(miniature_bundle, clip)
    np.testing.assert_array_equal(found.streams["codes"], alone.streams["codes"])
    np.testing.assert_array_equal(found.streams["semantic"], alone.streams["semantic"])
    assert (found.id, found.split, found.speaker) == (clip.id, clip.split, clip.speaker)
    assert found.seconds == alone.seconds


def test_hour_long_files_make_shards_of_their_own():
  def clip(i, **length):
    return manifest.AudioClip(f"{i}", f"{i}.wav", **length)

  clips = [clip(0, seconds=10.0), clip(1, seconds=3600.0), clip(2, size=3600 * 32_000), clip(3)]
  found = audio_shards.shards_of_clips([*clips, clip(4), clip(5)], 2, 1800.0)
  assert [[c.id for c in shard.clips] for shard in found] == [["0", "1"], ["2"], ["3", "4"], ["5"]]


def test_unreadable_clips_are_reported_and_stop_past_the_share(miniature_bundle, tmp_path):
  for i in range(3):
    soundfile.write(tmp_path / f"{i}.wav", np.full(4000, 0.1 * i + 0.1), 16_000)
  (tmp_path / "bad.wav").write_bytes(b"not audio")
  rows = [{"path": name, "split": "train"} for name in ("0.wav", "1.wav", "2.wav", "bad.wav")]
  source = tmp_path / "m.jsonl"
  source.write_text("\n".join(json.dumps(row) for row in rows))
  with pytest.raises(DataError, match=r"1 of 4 clips skipped: bad.wav"):
    _tokenize(miniature_bundle, source, tmp_path / "strict")
  done = _tokenize(miniature_bundle, source, tmp_path / "lax", max_skipped_fraction=0.25)
  assert done.info.clips == {"train": 3} and list(done.info.skipped) == ["bad.wav"]
  assert "1 clips skipped\n  bad.wav: " in done.info.report()


def test_other_rates_and_channels_give_tokens_at_the_bundles_rate(miniature_bundle, tmp_path):
  for i in range(2):
    soundfile.write(tmp_path / f"{i}.wav", np.full((22_050, 2), 0.2), 22_050)
  _tokenize(miniature_bundle, tmp_path, tmp_path / "store")
  for clip in token_store.TokenStore(tmp_path / "store").clips():
    assert len(clip.streams["codes"]) == 50 and len(clip.streams["semantic"]) == 25


def test_nothing_readable_is_refused(miniature_bundle, tmp_path):
  (tmp_path / "bad.wav").write_bytes(b"")
  with pytest.raises(DataError, match="no clip can be read: 1 of 1"):
    _tokenize(miniature_bundle, tmp_path, tmp_path / "store", max_skipped_fraction=1.0)
