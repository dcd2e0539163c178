"""Token shards: the files of a token store, which are written atomically and never change.

    tokens-0f3a51c2d4e6.npz    ids, splits, speakers, seconds, sizes, token hash, each stream

The name of a shard is a hash of its clips, so that creating it again writes the same file.
"""

import dataclasses
import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import CODES, SEMANTIC, Record
from audiolm_jax.io import storage

_SHARD = ("tokens-", ".npz")
_DAMAGED = (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile)
_NO_SIZE = -1  # an unknown size in a shard
_READ_AT_ONCE = 16  # hides the latency of buckets
# NumPy reads the headers of arrays with Python's parser, which is not thread-safe in some versions
# of Python 3.11 and 3.12 (https://github.com/python/cpython/issues/106905).
_PARSING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class TokenClip:
  """The tokens of one clip.

  Attributes:
    id: of the clip, unique in the store.
    streams: unsigned tokens by the keys of their streams; empty if they were not read.
    split: "train", "valid", ...
    speaker: None if unknown.
    seconds: duration of the audio.
    size: of the audio file in bytes; None if unknown.
  """

  id: str
  streams: Record
  split: str = "train"
  speaker: str | None = None
  seconds: float = 0.0
  size: int | None = None


class StoredShard(NamedTuple):
  """The content of a shard: its clips, with or without tokens, and their token counts."""

  name: str
  token_hash: str
  clips: list[TokenClip]
  counts: list[dict[str, int]]


def count_tokens(clip: TokenClip) -> dict[str, int]:
  """Returns the number of tokens of each stream of a clip, steps times levels."""
  return {key: tokens.size for key, tokens in clip.streams.items()}


def shard_name(key: Sequence[str]) -> str:
  """Returns the file name of a shard.

  Args:
    key: the ids of the clips, or other strings that identify the content.
  """
  return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12].join(_SHARD)


def write_shard(
  folder: str | os.PathLike[str],
  clips: Sequence[TokenClip],
  token_hash: str,
  name: str | None = None,
) -> str:
  """Writes clips as one shard, atomically.

  `store.json` does not change; a `TokenStoreWriter` adds the shard to it.

  Args:
    folder: of the token store.
    clips: the clips to write.
    token_hash: of the tokenizers.
    name: a name from `shard_name`; None for that of the ids of the clips.

  Returns:
    The name of the file.

  Raises:
    DataError: tokens are not integers of at least 0, or clips differ in their streams.
    UserError: the file cannot be written.
  """
  name = name or shard_name(sorted(clip.id for clip in clips))
  arrays = _shard_arrays([compacted(clip) for clip in clips], token_hash)
  with storage.write_whole(storage.join(folder, name)) as file:
    np.savez_compressed(file, **arrays)
  return name


def shard_files(folder: str | os.PathLike[str]) -> dict[str, int]:
  """Returns the size in bytes of every shard in a folder, by name; `store.json` is not read."""
  return {
    entry.name: entry.size
    for entry in storage.list_files(folder)
    if entry.name.startswith(_SHARD[0]) and entry.name.endswith(_SHARD[1])
  }


def read_shards(
  folder: str | os.PathLike[str],
  names: Iterable[str],
  *,
  tokens: bool = True,
  skip_damaged: bool = False,
) -> Iterator[StoredShard]:
  """Yields the named shards of a folder in order, while several are read in parallel.

  Args:
    folder: of the token store.
    names: of the shards.
    tokens: whether to read the tokens; without them, a corpus of any size can be listed.
    skip_damaged: whether to skip shards that cannot be read.

  Raises:
    DataError: a shard is damaged or missing.
  """

  def read(name: str) -> StoredShard | None:
    path = storage.join(folder, name)
    try:
      with _opened(path) as file, _PARSING, np.load(file) as arrays:
        keys = _keys(arrays)
        counts = [dict(zip(keys, map(int, row), strict=True)) for row in arrays["sizes"]]
        return StoredShard(name, str(arrays["token_hash"]), _shard_clips(arrays, tokens), counts)
    except _DAMAGED as error:
      if skip_damaged:
        return None
      raise DataError(
        f"the shard {path} is damaged or missing ({error}); create the store again"
      ) from error

  with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
    yield from (shard for shard in pool.map(read, names) if shard is not None)


def compacted(clip: TokenClip) -> TokenClip:
  """Returns the clip with its tokens in 16 bits, or 32 bits if they need them.

  Raises:
    DataError: tokens are not integers of at least 0.
  """
  streams = {key: _compact(tokens, clip.id) for key, tokens in clip.streams.items()}
  return dataclasses.replace(clip, streams=streams)


def _compact(tokens: np.ndarray, clip_id: str) -> np.ndarray:
  tokens = np.asarray(tokens)
  if not np.issubdtype(tokens.dtype, np.integer) or (tokens.size and int(tokens.min()) < 0):
    raise DataError(f"the tokens of {clip_id} must be integers of at least 0 ({tokens.dtype})")
  fits = not tokens.size or int(tokens.max()) < 2**16
  return tokens.astype(np.uint16 if fits else np.uint32)


def _shard_arrays(clips: Sequence[TokenClip], token_hash: str) -> dict[str, Any]:
  keys = sorted({key for clip in clips for key in clip.streams})
  for clip in clips:
    for key in keys:
      if key not in clip.streams:
        raise DataError(f"some clips have {key} tokens and some have none; all clips need them")
  counts = [count_tokens(clip) for clip in clips]
  arrays: dict[str, Any] = {
    "token_hash": np.array(token_hash),
    "streams": np.array(keys),
    "sizes": np.array([[count[key] for key in keys] for count in counts], np.int64),
    "ids": np.array([clip.id for clip in clips]),
    "splits": np.array([clip.split for clip in clips]),
    "speakers": np.array([clip.speaker or "" for clip in clips]),
    "seconds": np.array([clip.seconds for clip in clips], np.float64),
    "file_sizes": np.array([_NO_SIZE if c.size is None else c.size for c in clips], np.int64),
  }
  for key in keys:
    rows = [clip.streams[key] for clip in clips]
    arrays[f"stream:{key}"] = np.concatenate(rows)
    arrays[f"lengths:{key}"] = np.array([len(row) for row in rows], np.int64)
  return arrays


def _keys(shard: Mapping[str, np.ndarray]) -> list[str]:
  """Returns the keys of the streams; a shard of format 1 does not list them."""
  return [str(key) for key in shard["streams"]] if "streams" in shard else [SEMANTIC, CODES]


def _opened(path: str) -> BinaryIO:
  return io.BytesIO(storage.read_bytes(path)) if storage.is_url(path) else open(path, "rb")


def _shard_clips(shard: Mapping[str, np.ndarray], tokens: bool) -> list[TokenClip]:
  streams: dict[str, list[np.ndarray]] = {}
  for key in _keys(shard) if tokens else ():
    # In format 1 the arrays have the names of the streams.
    name, lengths = (
      (f"stream:{key}", f"lengths:{key}") if "streams" in shard else (key, f"{key}_lengths")
    )
    if name in shard:
      streams[key] = np.split(shard[name], np.cumsum(shard[lengths])[:-1])
  ids = shard["ids"]
  # Earlier versions did not record the sizes.
  sizes = shard["file_sizes"] if "file_sizes" in shard else np.full(len(ids), _NO_SIZE)
  rows = zip(ids, shard["splits"], shard["speakers"], shard["seconds"], sizes, strict=True)
  return [
    TokenClip(
      str(i),
      {key: of_clip[row] for key, of_clip in streams.items()},
      str(split),
      str(speaker) or None,
      float(seconds),
      None if size == _NO_SIZE else int(size),
    )
    for row, (i, split, speaker, seconds, size) in enumerate(rows)
  ]
