"""Local paths and URLs (`gs://`, `s3://`, ...) alike.

URLs go through fsspec; of the two libraries that are installed anyway (etils' epath is the other)
it is the one that reads buckets without TensorFlow and has every store as a small extra package.
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
  """A file below a folder: its path from there, with slashes, and its size in bytes."""

  name: str
  size: int


def is_url(path: PathLike) -> bool:
  """Whether it is `scheme://...` rather than a local path."""
  return "://" in os.fspath(path)


def join(folder: PathLike, name: str) -> str:
  """The place of `name` in a folder; `name` itself where it is absolute."""
  if is_url(name) or os.path.isabs(name):
    return name
  if is_url(folder):
    return f"{os.fspath(folder).rstrip('/')}/{name}"
  return os.path.join(folder, name)


def parent(path: PathLike) -> str:
  """The folder that a file is in."""
  text = os.fspath(path)
  return text.rpartition("/")[0] if is_url(text) else str(Path(text).parent)


def exists(path: PathLike) -> bool:
  """Whether there is a file or a folder.

  Raises:
    UserError: a URL whose store cannot be asked.
  """
  if not is_url(path):
    return os.path.exists(path)
  with _speaking(path) as (filesystem, inner):
    return filesystem.exists(inner)


def is_folder(path: PathLike) -> bool:
  """Whether there is a folder; in a bucket, whether anything lies below the name."""
  if not is_url(path):
    return os.path.isdir(path)
  with _speaking(path) as (filesystem, inner):
    return filesystem.isdir(inner)


def read_bytes(path: PathLike) -> bytes:
  """The whole content of a file.

  Raises:
    OSError: it cannot be read; FileNotFoundError where there is none.
  """
  if not is_url(path):
    return Path(path).read_bytes()
  with _speaking(path) as (filesystem, inner):
    return filesystem.cat_file(inner)


def read_text(path: PathLike) -> str:
  """The same as UTF-8 text."""
  return read_bytes(path).decode("utf-8")


@contextlib.contextmanager
def write_whole(path: PathLike) -> Iterator[BinaryIO]:
  """A binary file that takes its name only once its block has ended without an error.

  Raises:
    UserError: it cannot be written.
  """
  if not is_url(path):
    with atomic_write(path) as file:
      yield file
    return
  content = io.BytesIO()
  yield content
  with _speaking(path) as (filesystem, inner):
    # Not every store shows a file only when it is whole, so it is renamed as on a disk.
    temporary = f"{inner.rpartition('/')[0]}/.{secrets.token_hex(6)}.tmp"
    try:
      filesystem.pipe_file(temporary, content.getvalue())
      filesystem.mv(temporary, inner)
    except OSError as error:
      raise UserError(f"cannot write {path}: {error}; choose another place") from error


def make_folder(path: PathLike) -> None:
  """Makes a folder and those above it, where stores have such things.

  Raises:
    OSError: it cannot be made.
  """
  if not is_url(path):
    Path(path).mkdir(parents=True, exist_ok=True)
    return
  with _speaking(path) as (filesystem, inner):
    filesystem.makedirs(inner, exist_ok=True)


def list_files(folder: PathLike) -> list[Entry]:
  """Every file below a folder, sorted; hidden files and folders are passed over."""
  if is_url(folder):
    with _speaking(folder) as (filesystem, inner):
      found = filesystem.find(inner, detail=True)
      root = inner.rstrip("/") + "/"
      entries = [Entry(n.removeprefix(root), int(i["size"] or 0)) for n, i in found.items()]
  else:
    entries = []
    for where, folders, names in os.walk(folder, followlinks=True):
      folders[:] = [name for name in folders if not name.startswith(".")]
      paths = [Path(where, name) for name in names]
      entries += [Entry(p.relative_to(folder).as_posix(), _size(p)) for p in paths]
  return sorted(e for e in entries if not any(p.startswith(".") for p in e.name.split("/")))


def fetched_folder(folder: str, target: PathLike) -> str:
  """A folder as a local one: itself, or a copy of what a URL names in `target`."""
  if not is_url(folder):
    return folder
  with _speaking(folder) as (filesystem, inner):
    filesystem.get(inner.rstrip("/") + "/", f"{os.fspath(target)}/", recursive=True)
  return os.fspath(target)


def _size(path: Path) -> int:
  try:
    return path.stat().st_size
  except OSError:  # a link to nowhere: reading it will say so
    return 0


@contextlib.contextmanager
def _speaking(url: PathLike) -> Iterator[tuple[Any, str]]:
  """The file system of a URL and the path in it; what a store says of itself becomes one line."""
  try:
    from fsspec.core import url_to_fs

    filesystem, inner = url_to_fs(os.fspath(url))
  except ImportError as error:
    raise UserError(
      f"{url} cannot be reached: {error}; gs:// needs `pip install gcsfs`, s3:// `pip install s3fs`"
    ) from error
  except ValueError as error:
    raise UserError(f"{url} cannot be reached: {error}; use a path, gs:// or s3://") from error
  try:
    yield filesystem, inner
  except (OSError, UserError):
    raise
  except Exception as error:  # each store has exceptions of its own
    raise UserError(f"{url} cannot be reached: {type(error).__name__}: {error}") from error
