"""URLs and local paths behave alike, tested with fsspec's file system in memory."""

import os

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.io import audio, storage


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
  """Returns an empty folder on disk or in fsspec's memory."""
  if request.param == "local":
    return str(tmp_path)
  return f"memory://{tmp_path.as_posix().strip('/')}"


def _write(path, content):
  with storage.write_whole(path) as file:
    file.write(content)


def test_written_files_are_listed_and_hidden_files_are_skipped(place):
  for name in ("b.wav", "deep/er/a.txt", ".hidden/c", "deep/.d"):
    path = storage.join(place, name)
    storage.make_folder(storage.parent(path))
    _write(path, name.encode())
  assert storage.list_files(place) == [("b.wav", 5), ("deep/er/a.txt", 13)]
  assert storage.read_text(storage.join(place, "deep/er/a.txt")) == "deep/er/a.txt"
  assert storage.is_folder(storage.join(place, "deep"))
  assert storage.exists(storage.join(place, "b.wav"))
  assert not storage.exists(storage.join(place, "c.wav"))
  with pytest.raises(FileNotFoundError):
    storage.read_bytes(storage.join(place, "c.wav"))


def test_a_removed_file_is_missing(place):
  path = storage.join(place, "a.txt")
  _write(path, b"1")
  storage.remove_file(path)
  assert not storage.exists(path)
  with pytest.raises(UserError, match=r"cannot remove .*a\.txt"):
    storage.remove_file(path)


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(place):
  path = storage.join(place, "file")
  _write(path, b"old")
  with pytest.raises(KeyError), storage.write_whole(path) as file:
    file.write(b"new")
    raise KeyError
  _write(path, b"newer")
  assert storage.read_bytes(path) == b"newer" and storage.list_files(place) == [("file", 5)]


def test_a_folder_is_fetched_whole(place, tmp_path):
  storage.make_folder(storage.join(place, "bundle/part"))
  _write(storage.join(place, "bundle/part/x"), b"x")
  _write(storage.join(place, "bundle/y"), b"yy")
  (tmp_path / "copy").mkdir()
  copy = storage.fetched_folder(storage.join(place, "bundle"), tmp_path / "copy")
  assert storage.list_files(copy) == [("part/x", 1), ("y", 2)]


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_audio_from_a_url_equals_that_of_the_file(kind, tmp_path):
  local, url = tmp_path / f"a.{kind}", f"memory://sound/a.{kind}"
  soundfile.write(local, 0.3 * np.sin(np.arange(16_000) / 9), 16_000)
  _write(url, local.read_bytes())
  np.testing.assert_array_equal(audio.load_audio(url, 8000), audio.load_audio(local, 8000))


def test_missing_empty_and_truncated_audio_is_refused_with_its_url(tmp_path):
  with pytest.raises(AudioError, match=r"^memory://sound/no\.wav does not exist"):
    audio.check_readable("memory://sound/no.wav")
  _write("memory://sound/empty.wav", b"")
  with pytest.raises(AudioError, match=r"^memory://sound/empty\.wav is empty"):
    audio.check_readable("memory://sound/empty.wav")
  soundfile.write(tmp_path / "a.ogg", 0.3 * np.sin(np.arange(16_000) / 9), 16_000)
  _write("memory://sound/short.ogg", (tmp_path / "a.ogg").read_bytes()[:-100])
  with pytest.raises(AudioError, match=r"^memory://sound/short\.ogg is truncated"):
    audio.check_readable("memory://sound/short.ogg")


def test_an_unknown_scheme_and_a_missing_package_are_reported_with_the_fix(monkeypatch):
  with pytest.raises(UserError, match=r"^cannot access foo://bucket/x: .*use a path, gs://"):
    storage.exists("foo://bucket/x")

  def missing(url):
    raise ImportError("Install s3fs to access S3")

  monkeypatch.setattr("fsspec.core.url_to_fs", missing)
  with pytest.raises(UserError, match=r"cannot access s3://bucket/x: .*pip install s3fs"):
    storage.exists("s3://bucket/x")


@pytest.mark.parametrize("size", [0, 1, 70_000, (1 << 20) + 1, 5 << 20])
def test_a_hash_is_of_the_size_and_the_content_and_the_same_for_a_copy_in_a_bucket(size, tmp_path):
  content = np.random.default_rng(size).bytes(size)
  url = f"memory://hashed/{size}"
  for path in (tmp_path / "a", url):
    with storage.write_whole(path) as file:
      file.write(content)
  found = storage.content_hash(tmp_path / "a")
  assert found == storage.content_hash(url) and len(found) == 16
  places = {0, size // 3 if size < 1 << 20 else 4 * (size // 15), size - 1} if size else set()
  for place in places:
    changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    (tmp_path / "a").write_bytes(changed)
    assert storage.content_hash(tmp_path / "a") != found, place
  (tmp_path / "a").write_bytes(content + b"0")
  assert storage.content_hash(tmp_path / "a") != found
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(FileNotFoundError, match="is not a file"):
    storage.content_hash(tmp_path / "pipe")
