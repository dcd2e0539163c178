"""File access for local paths and URLs (`gs://`, `s3://`, ...).

URLs use fsspec. Unlike etils' epath, which is installed too, fsspec reads buckets without
TensorFlow and supports each store with a small extra package.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from audiolm_jax.core.errors import UserError
from audiolm_jax.io.files import atomic_write

PathLike = str | os.PathLike[str]


class Entry(NamedTuple):
  """A file below a folder: its path relative to the folder, with slashes, and its size in bytes."""

  name: str
  size: int


def is_url(path: PathLike) -> bool:
  """Returns whether `path` is a URL `scheme://...` rather than a local path."""
  return "://" in os.fspath(path)


def join(folder: PathLike, name: str) -> str:
  """Returns the path of `name` in a folder, or `name` itself if it is absolute."""
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
  """Returns whether `path` is a folder; in a bucket, whether any name begins with `path/`."""
  if not is_url(path):
    return os.path.isdir(path)
  with _filesystem(path) as (filesystem, inner):
    return filesystem.isdir(inner)


def read_bytes(path: PathLike) -> bytes:
  """Returns the content of a file.

  Raises:
    OSError: the file cannot be read; FileNotFoundError if it does not exist.
  """
  if not is_url(path):
    return Path(path).read_bytes()
  with _filesystem(path) as (filesystem, inner):
    return filesystem.cat_file(inner)


def read_text(path: PathLike) -> str:
  """Returns the content of a UTF-8 file as text; see `read_bytes`."""
  return read_bytes(path).decode("utf-8")


@contextlib.contextmanager
def write_whole(path: PathLike) -> Iterator[BinaryIO]:
  """Opens a binary file that gets its name when the block ends without an error.

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
    # Some stores show incomplete files, so the file is written under another name and renamed.
    temporary = f"{inner.rpartition('/')[0]}/.{secrets.token_hex(6)}.tmp"
    try:
      filesystem.pipe_file(temporary, content.getvalue())
      filesystem.mv(temporary, inner)
    except OSError as error:
      raise UserError(f"cannot write {path}: {error}; choose another place") from error


def make_folder(path: PathLike) -> None:
  """Creates a folder and its parents, in stores that have folders.

  Raises:
    OSError: the folder cannot be created.
  """
  if not is_url(path):
    Path(path).mkdir(parents=True, exist_ok=True)
    return
  with _filesystem(path) as (filesystem, inner):
    filesystem.makedirs(inner, exist_ok=True)


def list_files(folder: PathLike) -> list[Entry]:
  """Returns all files below a folder, sorted; hidden files and folders are skipped."""
  if is_url(folder):
    with _filesystem(folder) as (filesystem, inner):
      found = filesystem.find(inner, detail=True)
      root = inner.rstrip("/") + "/"
      entries = [Entry(n.removeprefix(root), int(i["size"] or 0)) for n, i in found.items()]
  else:
    entries = []
    for root, folders, names in os.walk(folder, followlinks=True):
      folders[:] = [name for name in folders if not name.startswith(".")]
      paths = [Path(root, name) for name in names]
      entries += [Entry(p.relative_to(folder).as_posix(), _size(p)) for p in paths]
  return sorted(e for e in entries if not any(p.startswith(".") for p in e.name.split("/")))


def fetched_folder(folder: str, target: PathLike) -> str:
  """Returns `folder` if it is local; otherwise copies it to `target` and returns that."""
  if not is_url(folder):
    return folder
  with _filesystem(folder) as (filesystem, inner):
    filesystem.get(inner.rstrip("/") + "/", f"{os.fspath(target)}/", recursive=True)
  return os.fspath(target)


def _size(path: Path) -> int:
  try:
    return path.stat().st_size
  except OSError:  # a broken link; reading it raises an error
    return 0


@contextlib.contextmanager
def _filesystem(url: PathLike) -> Iterator[tuple[Any, str]]:
  """Yields the file system of a URL and the path in it; converts its errors to `UserError`."""
  try:
    from fsspec.core import url_to_fs

    filesystem, inner = url_to_fs(os.fspath(url))
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
