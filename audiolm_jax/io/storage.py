"""File access for local paths and URLs (`gs://`, `s3://`, ...).

URLs are read and written with fsspec, which supports each store with a small extra package. The
module epath of etils is not used, because it accesses buckets through TensorFlow if TensorFlow is
installed.
"""

import collections
import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from audiolm_jax.core.errors import UserError
from audiolm_jax.io.files import atomic_write

PathLike = str | os.PathLike[str]
_BROKEN = (0, 0)  # the identity of all broken links
# `content_hash` reads at most `_HASHED_PARTS` parts of `_PART_BYTES` bytes each.
_HASHED_PARTS, _PART_BYTES = 16, 1 << 16
_KINDS = {
  b"RIFF": "a WAV file",
  b"fLaC": "a FLAC file",
  b"OggS": "an Ogg file",
  b"ID3": "an MP3 file",
  b"\x1f\x8b": "a gzip file (unpack it with gunzip)",
  b"PK": "a zip file (unpack it first)",
  b"PAR1": "a Parquet file",
}


class Entry(NamedTuple):
  """A file below a folder: its path relative to the folder, with slashes, and its size in bytes."""

  name: str
  size: int


def is_url(path: PathLike) -> bool:
  """Returns whether `path` is a URL `scheme://...` rather than a local path."""
  return "://" in os.fspath(path)


def join(folder: PathLike, name: str) -> str:
  """Returns the path of `name` in a folder, or `name` itself if it is a URL or an absolute path."""
  if is_url(name) or os.path.isabs(name):
    return name
  if is_url(folder):
    return f"{os.fspath(folder).rstrip('/')}/{name}"
  return os.path.join(folder, name)


def parent(path: PathLike) -> str:
  """Returns the folder that contains a file."""
  text = os.fspath(path)
  return text.rpartition("/")[0] if is_url(text) else str(Path(text).parent)


def exists(path: PathLike) -> bool:
  """Returns whether `path` is an existing file or folder.

  Raises:
    UserError: the store of a URL cannot be reached.
  """
  if not is_url(path):
    return os.path.exists(path)
  with _filesystem(path) as (filesystem, inner):
    return filesystem.exists(inner)


def is_folder(path: PathLike) -> bool:
  """Returns whether `path` is a folder; in a bucket, whether any name begins with `path/`.

  Raises:
    UserError: the store of a URL cannot be reached.
  """
  if not is_url(path):
    return os.path.isdir(path)
  with _filesystem(path) as (filesystem, inner):
    return filesystem.isdir(inner)


def read_bytes(path: PathLike) -> bytes:
  """Returns the content of a file.

  Raises:
    OSError: the file cannot be read; FileNotFoundError if it does not exist.
    UserError: the store of a URL cannot be reached.
  """
  if not is_url(path):
    return Path(path).read_bytes()
  with _filesystem(path) as (filesystem, inner):
    return filesystem.cat_file(inner)


def content_hash(path: PathLike) -> str:
  """Returns a hash of the size and the content of a file, as 16 hexadecimal digits.

  A file of up to 1 MiB is read completely. Of a larger file, only 16 evenly spaced parts of 64 KiB
  are read, so that large corpora can be compared in a short time. A copy and its original have
  equal hashes.

  Raises:
    OSError: the file cannot be read, or is not a regular file.
    UserError: the store of a URL cannot be reached.
  """
  if is_url(path):
    with _filesystem(path) as (filesystem, inner):
      size = int(filesystem.size(inner) or 0)
      starts, ends = zip(*_hashed_parts(size), strict=True)
      parts = filesystem.cat_ranges([inner] * len(starts), list(starts), list(ends))
  else:
    if not os.path.isfile(path):
      raise FileNotFoundError(f"{path} is not a file")
    with open(path, "rb") as file:
      size = os.fstat(file.fileno()).st_size
      parts: list[bytes] = []
      for start, end in _hashed_parts(size):
        file.seek(start)
        parts.append(file.read(end - start))
  return hashlib.sha256(b"".join([size.to_bytes(8, "big"), *parts])).hexdigest()[:16]


def _hashed_parts(size: int) -> list[tuple[int, int]]:
  if size <= _HASHED_PARTS * _PART_BYTES:
    return [(0, size)]
  last = size - _PART_BYTES
  starts = [part * last // (_HASHED_PARTS - 1) for part in range(_HASHED_PARTS)]
  return [(start, start + _PART_BYTES) for start in starts]


def read_text(path: PathLike) -> str:
  """Returns the content of a UTF-8 file as text.

  Raises:
    OSError: the file cannot be read.
    UserError: the store of a URL cannot be reached.
    UnicodeDecodeError: the content is not valid UTF-8.
  """
  return read_bytes(path).decode("utf-8")


def read_lines(path: PathLike) -> list[str]:
  """Returns the lines of a text file, without their line ends.

  A line ends with LF or CRLF; other line separators of Unicode are part of the line. The encoding
  is UTF-8 with or without a byte order mark, or UTF-16 with a byte order mark.

  Raises:
    OSError: the file cannot be read.
    UserError: the file is not text, or the store of a URL cannot be reached.
  """
  content = read_bytes(path)
  encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
  try:
    text = content.decode(encoding)
    if "\0" in text:
      raise ValueError
  except ValueError:
    raise UserError(
      f"{path} is not text, but {_kind(content)}; give a text file in UTF-8"
    ) from None
  lines = text.split("\n")
  return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _kind(content: bytes) -> str:
  """Returns a phrase for error messages that describes the type of a file with this content."""
  for magic, kind in _KINDS.items():
    if content.startswith(magic):
      return kind
  return f"bytes that begin with {content[:4].hex(' ')}"


@contextlib.contextmanager
def write_whole(path: PathLike) -> Generator[BinaryIO]:
  """Opens a binary file that is written to `path` when the `with` block ends without an error.

  Readers never see an incomplete file. For a URL, the content is kept in memory until the
  block ends.

  Raises:
    UserError: the file cannot be written.
  """
  if not is_url(path):
    with atomic_write(path) as file:
      yield file
    return
  content = io.BytesIO()
  yield content
  with _filesystem(path) as (filesystem, inner):
    # Some stores show incomplete files, so the file is written under a temporary name and renamed.
    temporary = f"{inner.rpartition('/')[0]}/.{secrets.token_hex(6)}.tmp"
    try:
      filesystem.pipe_file(temporary, content.getvalue())
      filesystem.mv(temporary, inner)
    except OSError as error:
      raise UserError(f"cannot write {path}: {error}; choose another place") from error


def remove_file(path: PathLike) -> None:
  """Removes a file.

  Raises:
    UserError: the file is missing or cannot be removed.
  """
  try:
    if not is_url(path):
      os.unlink(path)
      return
    with _filesystem(path) as (filesystem, inner):
      filesystem.rm_file(inner)
  except OSError as error:
    raise UserError(f"cannot remove {path}: {error.strerror or error}") from error


def make_folder(path: PathLike) -> None:
  """Creates a folder and its parents, if the store has folders.

  Raises:
    OSError: the folder cannot be created.
    UserError: the store of a URL cannot be reached.
  """
  if not is_url(path):
    Path(path).mkdir(parents=True, exist_ok=True)
    return
  with _filesystem(path) as (filesystem, inner):
    filesystem.makedirs(inner, exist_ok=True)


def list_files(folder: PathLike) -> list[Entry]:
  """Returns all files below a folder, sorted by name; hidden files and folders are skipped.

  Links to folders are followed last, and no folder is searched twice.

  Raises:
    OSError: the folder of a URL cannot be listed.
    UserError: a local folder cannot be listed, or the store of a URL cannot be reached.
  """
  return list_files_and_copies(folder)[0]


def list_files_and_copies(folder: PathLike) -> tuple[list[Entry], dict[str, str]]:
  """Returns the entries of `list_files`, and the names of duplicates.

  An entry is a duplicate if an earlier entry is the same file, because of symbolic or hard links.
  The second result maps the name of each duplicate to the name of the first entry for its file.
  For a URL, duplicates are not detected.
  """
  if is_url(folder):
    with _filesystem(folder) as (filesystem, inner):
      found = filesystem.find(inner, detail=True)
      root = inner.rstrip("/") + "/"
      entries = [Entry(n.removeprefix(root), int(i["size"] or 0)) for n, i in found.items()]
    return sorted(e for e in entries if not any(p.startswith(".") for p in e.name.split("/"))), {}
  first: dict[tuple[int, int], str] = {}
  entries: list[Entry] = []
  copies: dict[str, str] = {}
  for entry, identity in sorted(_walk(folder)):
    entries.append(entry)
    same = first.setdefault(identity, entry.name)
    if same != entry.name and identity != _BROKEN:
      copies[entry.name] = same
  return entries, copies


def _walk(folder: PathLike) -> Iterator[tuple[Entry, tuple[int, int]]]:
  """Yields the files below a local folder, each with its identity (device and inode)."""
  searched: set[tuple[int, int]] = set()
  folders, links = [""], collections.deque[str]()
  while folders or links:
    # Links are followed last, so that files have the path of their folder, not the path of a link.
    here = folders.pop() if folders else links.popleft()
    path = os.path.join(folder, here)
    try:
      identity = _identity(os.stat(path))
      if identity in searched:
        continue
      searched.add(identity)
      with os.scandir(path) as scanned:
        items = sorted(scanned, key=lambda item: item.name)
    except OSError as error:
      raise UserError(
        f"cannot list {path}: {error.strerror}; fix its permissions or remove it"
      ) from error
    for item in items:
      name = f"{here}/{item.name}" if here else item.name
      if item.name.startswith("."):
        continue
      if not _is_folder(item):
        yield _entry(name, item)
      elif item.is_symlink():
        links.append(name)
      else:
        folders.append(name)


def _is_folder(item: os.DirEntry[str]) -> bool:
  try:
    return item.is_dir()
  except OSError:  # a link to itself
    return False


def _entry(name: str, item: os.DirEntry[str]) -> tuple[Entry, tuple[int, int]]:
  try:
    status = item.stat()
    return Entry(name, status.st_size), _identity(status)
  except OSError:  # a broken link; reading it raises an error
    return Entry(name, 0), _BROKEN


def _identity(status: os.stat_result) -> tuple[int, int]:
  return status.st_dev, status.st_ino


def fetched_folder(folder: str, target: PathLike) -> str:
  """Returns `folder` if it is local; otherwise copies it to `target` and returns `target`.

  Raises:
    OSError: the folder cannot be read or copied.
    UserError: the store of a URL cannot be reached.
  """
  if not is_url(folder):
    return folder
  with _filesystem(folder) as (filesystem, inner):
    filesystem.get(inner.rstrip("/") + "/", f"{os.fspath(target)}/", recursive=True)
  return os.fspath(target)


@contextlib.contextmanager
def _filesystem(url: PathLike) -> Generator[tuple[Any, str]]:
  """Yields the file system of a URL, and the path in this file system.

  Raises:
    UserError: the URL is not valid, the package for the store is missing, or the block raised an
      exception other than `OSError`.
  """
  try:
    import fsspec.core  # pyright: ignore[reportMissingTypeStubs]: it has no annotations

    found = fsspec.core.url_to_fs(os.fspath(url))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]: it has no annotations
    filesystem, inner = cast("tuple[Any, str]", found)
  except ImportError as error:
    raise UserError(
      f"cannot access {url}: {error}; gs:// needs `pip install gcsfs`, s3:// `pip install s3fs`"
    ) from error
  except ValueError as error:
    raise UserError(f"cannot access {url}: {error}; use a path, gs:// or s3://") from error
  try:
    yield filesystem, inner
  except (OSError, UserError):
    raise
  except Exception as error:  # the exception types differ between stores
    raise UserError(f"cannot access {url}: {type(error).__name__}: {error}") from error
