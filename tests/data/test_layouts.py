"""Splits and speakers of published corpora, derived from their folders."""

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import manifest
from audiolm_jax.io import storage


def _make(folder, names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".wav", ".flac"):
      soundfile.write(path, np.full(160, 0.1), 16_000)
    else:
      path.write_text("")


def _described(folder, layout=None, valid_fraction=0.0):
  clips = manifest.list_clips(folder, valid_fraction, layout)
  return {clip.id: (clip.split, clip.speaker) for clip in clips}


@pytest.mark.parametrize("above", ["", "LibriSpeech/"])
def test_librispeech_has_its_own_splits_and_speakers(tmp_path, above):
  parts = ["train-clean-100/19/198", "train-other-500/20/1", "dev-clean/84/2", "test-other/61/7"]
  _make(tmp_path, [f"{above}{part}/x.flac" for part in parts])
  _make(tmp_path, [f"{above}{parts[0]}/19-198.trans.txt", f"{above}SPEAKERS.TXT"])
  assert list(_described(tmp_path).values()) == [
    ("valid", "84"),
    ("test", "61"),
    ("train", "19"),
    ("train", "20"),
  ]


def test_libri_light_and_a_single_split_have_speakers_and_no_splits(tmp_path):
  _make(tmp_path / "light", [f"small/{i}/book_name_64kb/part.flac" for i in range(30)])
  described = _described(tmp_path / "light", valid_fraction=0.2)
  assert described["small/7/book_name_64kb/part.flac"][1] == "7"
  assert {split for split, _ in described.values()} == {"train", "valid"}
  _make(tmp_path / "one", ["103/1240/103-1240-0000.flac"])
  assert _described(tmp_path / "one") == {"103/1240/103-1240-0000.flac": ("train", "103")}


def test_ljspeech_is_one_speaker(tmp_path):
  _make(tmp_path, ["metadata.csv", "wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav", "other.wav"])
  assert _described(tmp_path) == {f"wavs/LJ001-000{i}.wav": ("train", "ljspeech") for i in (1, 2)}


MAESTRO = """canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration
A,"Etude, in A",train,2004,2004/a.midi,2004/a.wav,1.0
B,Fugue,validation,2006,2006/b.midi,2006/b.wav,1.0
C,Waltz,test,2006,2006/c.midi,2006/c.wav,1.0
"""


def test_the_texts_of_ljspeech_and_librispeech_are_those_of_their_clips(tmp_path):
  lj, libri = tmp_path / "lj", tmp_path / "libri"
  _make(lj, ["metadata.csv", "wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav", "wavs/LJ001-0003.wav"])
  (lj / "metadata.csv").write_text("LJ001-0001|In 2|In two\nLJ001-0002|So|\n")
  folder = "train-clean-100/19/198/"
  _make(libri, [f"{folder}19-198-{i:04d}.flac" for i in range(2)])
  (libri / f"{folder}19-198.trans.txt").write_text("19-198-0001 GOOD MORNING\n")
  found = [
    [clip.text for clip in manifest.list_clips(source, texts=True)] for source in (lj, libri)
  ]
  assert found == [["In two", "", None], [None, "GOOD MORNING"]]
  assert {clip.text for clip in manifest.list_clips(lj)} == {None}
  (lj / "metadata.csv").write_bytes(b"\x00|x")
  with pytest.raises(DataError, match=r"the texts in .*metadata\.csv cannot be read"):
    manifest.list_clips(lj, texts=True)


def test_maestro_has_the_splits_of_its_table_and_misses_what_is_not_there(tmp_path):
  _make(tmp_path, ["2004/a.wav", "2006/b.wav", "2006/not_listed.wav"])
  (tmp_path / "maestro-v3.0.0.csv").write_text(MAESTRO)
  described = {"2004/a.wav": "train", "2006/b.wav": "valid", "2006/c.wav": "test"}
  assert _described(tmp_path) == {name: (split, None) for name, split in described.items()}
  (tmp_path / "maestro-v3.0.0.csv").write_text("a,b\n1,2\n")
  with pytest.raises(DataError, match=r"maestro-v3\.0\.0\.csv is not a MAESTRO table"):
    manifest.list_clips(tmp_path)


def test_a_layout_can_be_named_and_one_that_does_not_fit_is_refused(tmp_path):
  _make(tmp_path, ["metadata.csv", "wavs/a.wav", "train/b.wav"])
  assert set(_described(tmp_path, "ljspeech")) == {"wavs/a.wav"}
  assert set(_described(tmp_path, "folder")) == {"wavs/a.wav", "train/b.wav"}
  with pytest.raises(DataError, match="does not have the layout maestro"):
    manifest.list_clips(tmp_path, layout="maestro")
  with pytest.raises(
    DataError, match="the layouts are maestro, ljspeech, librispeech, vctk, folder"
  ):
    manifest.list_clips(tmp_path, layout="libri")


def test_folders_and_manifests_in_a_bucket_are_read_like_those_on_disk(corpus, tmp_path):
  _make(tmp_path, ["2004/a.wav", "2006/b.wav"])
  (tmp_path / "maestro-v3.0.0.csv").write_text(MAESTRO)
  for path in (p for p in tmp_path.rglob("*") if p.is_file()):
    with storage.write_whole(f"memory://layouts/m/{path.relative_to(tmp_path)}") as file:
      file.write(path.read_bytes())
  assert _described("memory://layouts/m") == _described(tmp_path)
  for path in (p for p in corpus.parent.rglob("*") if p.is_file()):
    with storage.write_whole(f"memory://layouts/c/{path.relative_to(corpus.parent)}") as file:
      file.write(path.read_bytes())
  there = manifest.list_clips("memory://layouts/c/manifest.jsonl")
  here = manifest.list_clips(corpus)
  assert [(c.id, c.split, c.speaker) for c in there] == [(c.id, c.split, c.speaker) for c in here]
  for one, other in zip(there, here, strict=True):
    waveforms = [manifest.read_clip(clip, 16_000) for clip in (one, other)]
    np.testing.assert_array_equal(*waveforms)  # pyright: ignore[reportArgumentType]: two arrays


@pytest.mark.parametrize("above", ["", "LibriSpeech/", "corpora/english/LibriSpeech/"])
def test_a_stray_file_does_not_move_held_out_clips_to_train(tmp_path, above, caplog):
  parts = ["train-clean-100/19/198", "dev-clean/84/2", "test-clean/61/7"]
  _make(tmp_path, [f"{above}{part}/x.flac" for part in parts])
  before = _described(tmp_path)
  _make(tmp_path, [f"{above}stray.flac"])
  assert _described(tmp_path) == before
  assert {split for split, _ in before.values()} == {"train", "valid", "test"}
  (record,) = caplog.records
  assert "1 audio files are left out, such as" in record.getMessage()
  assert "stray.flac (not part of the layout librispeech)" in record.getMessage()
  corpus = manifest.read_corpus(tmp_path)
  assert corpus.layout == "librispeech" and list(corpus.left_out) == [f"{above}stray.flac"]


def test_a_corpus_among_more_other_files_is_refused_unless_a_layout_is_named(tmp_path):
  _make(tmp_path, ["dev-clean/84/2/x.flac", *(f"own/{i}.wav" for i in range(3))])
  with pytest.raises(DataError, match=r"3 of 4 audio files outside of a corpus .* librispeech"):
    manifest.list_clips(tmp_path)
  assert len(_described(tmp_path, "folder")) == 4
  assert _described(tmp_path, "librispeech") == {"dev-clean/84/2/x.flac": ("valid", "84")}


def test_folders_of_numbers_alone_are_not_librispeech(tmp_path):
  _make(tmp_path, ["12/session/a.wav", "12/session/b.wav", "music/c.wav"])
  assert manifest.read_corpus(tmp_path).layout == "folder"
  assert {speaker for _, speaker in _described(tmp_path).values()} == {None}


def test_corpora_are_found_in_a_folder_below(tmp_path):
  _make(tmp_path / "music", ["maestro/2004/a.wav", "maestro/2006/b.wav", "maestro/2006/c.wav"])
  (tmp_path / "music/maestro/maestro-v3.0.0.csv").write_text(MAESTRO)
  assert [split for split, _ in _described(tmp_path / "music").values()] == [
    "train",
    "valid",
    "test",
  ]
  (tmp_path / "music/v2").mkdir()
  (tmp_path / "music/v2/maestro-v2.0.0.csv").write_text(MAESTRO)
  with pytest.raises(DataError, match=r"several copies of MAESTRO \(maestro/, v2/\)"):
    manifest.list_clips(tmp_path / "music")
  _make(tmp_path / "speech", ["LJSpeech-1.1/metadata.csv", "LJSpeech-1.1/wavs/a.wav"])
  assert _described(tmp_path / "speech") == {"LJSpeech-1.1/wavs/a.wav": ("train", "ljspeech")}
  _make(tmp_path / "speech", ["other/metadata.csv", "other/wavs/a.wav"])
  assert manifest.read_corpus(tmp_path / "speech").layout == "folder"


def test_the_microphones_of_one_recording_are_in_one_split(tmp_path):
  names = [
    f"wav48_silence_trimmed/p{speaker}/p{speaker}_{number:03d}_mic{microphone}.flac"
    for speaker in (225, 226)
    for number in range(20)
    for microphone in (1, 2)
  ]
  _make(tmp_path, names)
  described = _described(tmp_path, valid_fraction=0.3)
  assert manifest.read_corpus(tmp_path).layout == "vctk"
  assert {speaker for _, speaker in described.values()} == {"p225", "p226"}
  splits = [described[name][0] for name in sorted(names)]
  assert splits[::2] == splits[1::2] and 2 < splits.count("valid") < 50
  # A recording is in the split that its first file has alone.
  for name in names[1::2]:
    (tmp_path / name).unlink()
  alone = _described(tmp_path, valid_fraction=0.3)
  assert alone == {name: described[name] for name in alone}


def test_copies_in_two_formats_are_in_one_split(tmp_path):
  _make(tmp_path, [f"{i}.{kind}" for i in range(30) for kind in ("wav", "flac")])
  described = _described(tmp_path, valid_fraction=0.3)
  for i in range(30):
    assert described[f"{i}.wav"] == described[f"{i}.flac"]
  assert {split for split, _ in described.values()} == {"train", "valid"}


def test_links_to_folders_and_files_add_no_copies(tmp_path):
  _make(tmp_path, [f"deep/{i}.wav" for i in range(3)])
  before = [clip.id for clip in manifest.list_clips(tmp_path)]
  (tmp_path / "deep/up").symlink_to(tmp_path)
  (tmp_path / "again").symlink_to(tmp_path / "deep")
  (tmp_path / "deep/0.flac").symlink_to(tmp_path / "deep/0.wav")
  (tmp_path / "deep/._0.wav").write_bytes(b"no sound")
  (tmp_path / "deep/self.txt").symlink_to("self.txt")
  clips = manifest.list_clips(tmp_path)
  assert [clip.id for clip in clips] == ["deep/0.flac", *before[1:]]
  outside = tmp_path.parent / "outside"
  _make(outside, ["b.wav"])
  (tmp_path / "linked").symlink_to(outside)
  assert "linked/b.wav" in {clip.id for clip in manifest.list_clips(tmp_path)}
