"""Folders, manifests, splits, skipped clips."""

import json
import os

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import AudioError, DataError
from audiolm_jax.data import examples, manifest


def _write(path, rate=16_000, samples=1600, channels=1):
  path.parent.mkdir(parents=True, exist_ok=True)
  shape = (samples,) if channels == 1 else (samples, channels)
  soundfile.write(path, np.full(shape, 0.25, np.float32), rate)


def test_manifest_rows_become_clips_with_their_split_and_speaker(corpus):
  clips = manifest.list_clips(corpus)
  assert [clip.id for clip in clips] == [
    f"clips/{i}.{'flac' if i % 2 else 'wav'}" for i in range(7)
  ]
  assert [clip.split for clip in clips].count("valid") == 2
  assert {clip.speaker for clip in clips} == {"s0", "s1"}
  assert clips[3].seconds == pytest.approx(1.2)


def test_folder_is_searched_through_and_hidden_and_other_files_are_passed_over(tmp_path):
  for name in ("a.wav", "deep/er/b.flac", "deep/c.OGG", ".hidden.wav", ".git/d.wav"):
    if name.endswith("OGG"):
      soundfile.write(tmp_path / name, np.zeros(800), 16_000, format="OGG")
    else:
      _write(tmp_path / name)
  (tmp_path / "notes.txt").write_text("x")
  assert [clip.id for clip in manifest.list_clips(tmp_path)] == [
    "a.wav",
    "deep/c.OGG",
    "deep/er/b.flac",
  ]


def test_sound_that_cannot_be_decoded_is_listed_and_then_counted(tmp_path):
  _write(tmp_path / "a.wav")
  (tmp_path / "b.m4a").write_bytes(b"\0\0\0\x1cftypM4A " + bytes(200))
  clips = manifest.list_clips(tmp_path)
  assert [clip.id for clip in clips] == ["a.wav", "b.m4a"]
  with pytest.raises(AudioError, match=r"b\.m4a is not a supported audio file.*ffmpeg"):
    manifest.read_clip(clips[1], 16_000)


def test_first_folder_level_names_the_splits(tmp_path):
  for name in ("train/a.wav", "validation/b.wav", "test/c.wav"):
    _write(tmp_path / name)
  assert [clip.split for clip in manifest.list_clips(tmp_path)] == ["test", "train", "valid"]


def test_hash_split_keeps_old_files_where_they_were_when_files_are_added(tmp_path):
  for i in range(40):
    _write(tmp_path / f"{i}.wav", samples=10)
  before = {clip.id: clip.split for clip in manifest.list_clips(tmp_path, valid_fraction=0.2)}
  for i in range(40, 60):
    _write(tmp_path / f"{i}.wav", samples=10)
  after = {clip.id: clip.split for clip in manifest.list_clips(tmp_path, valid_fraction=0.2)}
  assert 3 <= list(before.values()).count("valid") <= 16
  assert all(after[name] == split for name, split in before.items())


def test_two_files_without_splits_give_one_of_each(tmp_path):
  _write(tmp_path / "a.wav")
  _write(tmp_path / "b.wav")
  assert sorted(clip.split for clip in manifest.list_clips(tmp_path)) == ["train", "valid"]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ('{"path": "a.wav"}\nnot json', "line 2"),
    ('{"file": "a.wav"}', "line 1"),
    ('{"path": "a.wav"}\n{"path": "a.wav"}', "twice"),
    ('["a.wav"]', "line 1"),
    ("\n", "no rows"),
  ],
)
def test_bad_manifest_is_refused_with_its_line(tmp_path, text, words):
  (tmp_path / "m.jsonl").write_text(text)
  with pytest.raises(DataError, match=words):
    manifest.list_clips(tmp_path / "m.jsonl")


def test_missing_and_empty_sources_are_refused(tmp_path):
  with pytest.raises(DataError, match="does not exist"):
    manifest.list_clips(tmp_path / "nowhere")
  with pytest.raises(DataError, match="no audio files"):
    manifest.list_clips(tmp_path)


def test_unknown_split_is_refused_with_the_known_ones(corpus):
  with pytest.raises(DataError, match="train, valid"):
    manifest.clips_of_split(manifest.list_clips(corpus), "dev")


def test_skipping_past_the_share_stops_with_the_reasons():
  log = manifest.SkipLog(total=100, max_skipped_fraction=0.02)
  log.skip("a", "is empty")
  log.skip("b", "is not audio")
  assert log.report() == "2 of 100 clips skipped: a (is empty), b (is not audio)"
  with pytest.raises(DataError, match=r"3 of 100 clips skipped.*max_skipped_fraction=0.02"):
    log.skip("c", "does not exist")


def test_any_rate_and_channels_are_read_as_mono_at_the_asked_rate(tmp_path):
  _write(tmp_path / "a.wav", rate=44_100, samples=44_100, channels=2)
  clip = manifest.AudioClip("a.wav", str(tmp_path / "a.wav"))
  waveform = manifest.read_clip(clip, 16_000)
  assert waveform.dtype == np.float32 and waveform.shape == (16_000,)
  np.testing.assert_allclose(waveform[1000:-1000], 0.25, atol=1e-3)
  np.testing.assert_array_equal(manifest.read_clip_pcm16(clip, 16_000), examples.to_pcm16(waveform))


def test_missing_file_is_an_audio_error(tmp_path):
  with pytest.raises(AudioError):
    manifest.read_clip(manifest.AudioClip("x.wav", str(tmp_path / "x.wav")), 16_000)


def test_rows_are_json_objects_so_that_unknown_keys_do_no_harm(tmp_path):
  (tmp_path / "m.jsonl").write_text(json.dumps({"path": "a.wav", "sex": "F", "licence": "CC0"}))
  assert manifest.list_clips(tmp_path / "m.jsonl")[0].split == "train"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_end_with_a_line_feed_only_in_every_encoding(tmp_path, encoding):
  names = ["a\u2028b.wav", "c\x85d.wav", "e\x0bf.wav", "gr\u00fc\u00df.wav"]
  rows = [json.dumps({"path": name, "split": "Validation"}, ensure_ascii=False) for name in names]
  (tmp_path / "m.jsonl").write_bytes("\r\n".join([*rows, ""]).encode(encoding))
  clips = manifest.list_clips(tmp_path / "m.jsonl")
  assert sorted(clip.id for clip in clips) == sorted(names)
  assert {clip.split for clip in clips} == {"valid"}


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"RIFF\x24\xfa\0\0WAVEfmt ", r"m\.jsonl is not text, but a WAV file; give a text file"),
    (b"\x1f\x8b\x08\0", r"a gzip file \(unpack it with gunzip\)"),
    (b"\xfa\xfb\xfc\xfd", "bytes that begin with fa fb fc fd"),
    (b"path,split\na.wav,train\n", r"line 1: .* the line begins with 'path,split'"),
    (b'{"audio_filepath": "a.wav", "duration": 1}', r"its fields are audio_filepath, duration"),
    (b'[{"path": "a.wav"}]', r"it is list, .* a row is \{\"path\""),
    (b'{"path": ["a.wav"]}', "path is list"),
    (b'{"path": ""}', "path is ''"),
    (b'{"path": "a\\u0000.wav"}', "path is "),
    (b'{"path": "a.wav", "seconds": 1e999}', "seconds is inf"),
    (b'{"path": "a.wav", "seconds": -1}', "seconds is -1"),
    (b'{"path": "a.wav", "source_path": ""}', "source_path is ''"),
    (b'{"path": "a.wav", "source_path": 5}', "source_path is 5"),
    (b'{"path": "a.wav", "split": true}', "split is bool"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"path": "a.wav", "seconds": ' + b"9" * 5_000 + b"}", "line 1"),
    (b'{"path": "a.wav"}\n{"path": "./a.wav"}', "line 2: ./a.wav is listed twice"),
    (b'{"\\n": 1}', "its fields are, the line begins"),
    (b'{"' + 5000 * b"x" + b'": 1}', r"fields are x{185}\.\.\., the line begins"),
  ],
)
def test_other_files_are_refused_with_what_they_are(tmp_path, content, words):
  (tmp_path / "m.jsonl").write_bytes(content)
  with pytest.raises(DataError, match=words) as caught:
    manifest.list_clips(tmp_path / "m.jsonl")
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_file_names_that_are_not_text_are_listed_and_read(tmp_path):
  name = os.fsdecode(b"caf\xe9.wav")
  _write(tmp_path / "b.wav")
  (tmp_path / name).write_bytes((tmp_path / "b.wav").read_bytes())
  clips = manifest.list_clips(tmp_path)
  assert {clip.id for clip in clips} == {name, "b.wav"}
  assert {clip.split for clip in clips} == {"train", "valid"}
  for clip in clips:
    assert len(manifest.read_clip(clip, 16_000)) == 1_600


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
  (tmp_path / "m.jsonl").write_text('{"path": "a\\ud800.wav"}')
  with pytest.raises(DataError, match="half of a surrogate pair"):
    manifest.list_clips(tmp_path / "m.jsonl")
