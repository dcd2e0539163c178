"""Token shards: the files of a token store, which are written atomically.

    tokens-0f3a51c2d4e6.npz    ids, splits, speakers, seconds, sizes and hashes of the files, token
                               hash, each stream

The name of a shard contains a hash of the clip ids or of another key, see `shard_name`. A repeated
run thus replaces the file. If clips are removed from a shard later, its name does not change.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import CODES, SEMANTIC, Record
from audiolm_jax.io import storage
from audiolm_jax.io.npz import Arrays

_SHARD = ("tokens-", ".npz")
_DAMAGED = (OSError, KeyError, ValueError)
_NO_SIZE = -1  # an unknown size in a shard
_READ_AT_ONCE = 16  # shards; hides the latency of buckets


@dataclasses.dataclass(frozen=True)
class TokenClip:
  """The tokens of one clip.

  Attributes:
    id: id of the clip, unique in the store.
    streams: the tokens, by stream key; empty if they were not read.
    split: "train", "valid", ...
    speaker: name of the speaker; None if unknown.
    seconds: duration of the audio.
    size: size of the audio file in bytes; None if unknown.
    content: hash of the audio file, see `manifest.content_of`; None if unknown.
  """

  id: str
  streams: Record
  split: str = "train"
  speaker: str | None = None
  seconds: float = 0.0
  size: int | None = None
  content: str | None = None


class StoredShard(NamedTuple):
  """The content of a shard.

  Attributes:
    name: file name of the shard.
    token_hash: hash of the tokenizers.
    clips: the clips, with or without tokens.
    counts: for each clip, the number of tokens per stream, by key.
  """

  name: str
  token_hash: str
  clips: list[TokenClip]
  counts: list[dict[str, int]]


def count_tokens(clip: TokenClip) -> dict[str, int]:
  """Returns the number of tokens (steps times levels) per stream of a clip, by key."""
  return {key: tokens.size for key, tokens in clip.streams.items()}


def checksum(clip: TokenClip, keys: Iterable[str] | None = None) -> int:
  """Returns a checksum of the tokens of a clip.

  Args:
    clip: the clip.
    keys: keys of the streams to include; None for all streams.
  """
  value = 0
  for key in sorted(clip.streams) if keys is None else keys:
    value = zlib.crc32(np.ascontiguousarray(clip.streams[key], "<u4").data, value)
  return value


def shard_name(key: Sequence[str]) -> str:
  """Returns the file name of a shard.

  Args:
    key: the ids of the clips, or other strings that identify the content.
  """
  return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12].join(_SHARD)


def is_shard_name(name: str) -> bool:
  """Returns whether a name has the form of the names that `shard_name` returns."""
  return re.fullmatch(r"tokens-[0-9a-f]{12}\.npz", name) is not None


def write_shard(
  folder: str | os.PathLike[str],
  clips: Sequence[TokenClip],
  token_hash: str,
  name: str | None = None,
) -> str:
  """Writes clips as one shard, atomically.

  `store.json` does not change; a `TokenStoreWriter` adds the shard to it.

  Args:
    folder: folder of the token store.
    clips: the clips to write.
    token_hash: hash of the tokenizers.
    name: a name from `shard_name`; None to compute it from the ids of the clips.

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
  """Yields the named shards of a token store in order; several shards are read in parallel.

  Args:
    folder: folder of the token store.
    names: file names of the shards.
    tokens: whether to read the tokens; a corpus of any size can be listed without them.
    skip_damaged: whether to skip shards that cannot be read.

  Raises:
    DataError: a shard is damaged or missing.
  """

  def read(name: str) -> StoredShard | None:
    path = storage.join(folder, name)
    try:
      with _opened(path) as file:
        return _stored_shard(name, Arrays(file), tokens)
    except _DAMAGED as error:
      if skip_damaged:
        return None
      raise DataError(
        f"the shard {path} is damaged or missing ({error}); create the store again"
      ) from error

  with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
    yield from (shard for shard in pool.map(read, names) if shard is not None)


def compacted(clip: TokenClip) -> TokenClip:
  """Returns the clip with tokens as uint16, or as uint32 if a token is too large for uint16.

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
    "contents": np.array([clip.content or "" for clip in clips]),
  }
  for key in keys:
    rows = [clip.streams[key] for clip in clips]
    arrays[f"stream:{key}"] = np.concatenate(rows)
    arrays[f"lengths:{key}"] = np.array([len(row) for row in rows], np.int64)
  return arrays


def check_regular(path: str) -> None:
  """Raises `ValueError` if an existing local path is not a regular file; a pipe could block."""
  if not storage.is_url(path) and os.path.exists(path) and not os.path.isfile(path):
    raise ValueError("it is not a regular file")


def _opened(path: str) -> BinaryIO:
  check_regular(path)
  return io.BytesIO(storage.read_bytes(path)) if storage.is_url(path) else open(path, "rb")


def _stored_shard(name: str, arrays: Arrays, tokens: bool) -> StoredShard:
  """Returns the content of a shard; raises `ValueError` if its arrays are inconsistent."""
  # A shard of format 1 has no list of streams; the names of its arrays are the keys of the streams.
  listed = "streams" in arrays
  keys = arrays.texts("streams") if listed else [SEMANTIC, CODES]
  ids, splits, speakers = (arrays.texts(field) for field in ("ids", "splits", "speakers"))
  seconds, sizes = arrays["seconds"], arrays["sizes"]
  if not len(ids) == len(splits) == len(speakers) == len(seconds) == len(sizes):
    raise ValueError("its clips differ in number")
  if sizes.dtype.kind not in "iu" or sizes.shape[1:] != (len(keys),) or (sizes < 0).any():
    raise ValueError(f"the numbers of tokens are {sizes.dtype} of shape {sizes.shape}")
  if seconds.dtype.kind != "f" or seconds.ndim != 1 or not np.isfinite(seconds).all():
    raise ValueError("the seconds of its clips are not numbers")
  streams: dict[str, list[np.ndarray]] = {}
  # Earlier versions did not record the sizes and hashes of files.
  file_sizes = arrays["file_sizes"] if "file_sizes" in arrays else np.full(len(ids), _NO_SIZE)
  if file_sizes.dtype.kind != "i" or file_sizes.shape != (len(ids),):
    raise ValueError(f"the sizes of files are {file_sizes.dtype} of shape {file_sizes.shape}")
  contents = arrays.texts("contents") if "contents" in arrays else [""] * len(ids)
  if len(contents) != len(ids):
    raise ValueError(f"there are {len(contents)} hashes of files for {len(ids)} clips")
  for column, key in enumerate(keys):
    stored, lengths = (f"stream:{key}", f"lengths:{key}") if listed else (key, f"{key}_lengths")
    if stored in arrays:
      _check_stream(key, arrays, stored, arrays[lengths], sizes[:, column])
      if tokens:
        streams[key] = np.split(arrays[stored], np.cumsum(arrays[lengths])[:-1])
  clips = [
    TokenClip(
      ids[row],
      {key: of_clip[row] for key, of_clip in streams.items()},
      splits[row],
      speakers[row] or None,
      float(seconds[row]),
      None if file_sizes[row] == _NO_SIZE else int(file_sizes[row]),
      contents[row] or None,
    )
    for row in range(len(ids))
  ]
  counts = [dict(zip(keys, map(int, row), strict=True)) for row in sizes]
  return StoredShard(name, arrays.text("token_hash"), clips, counts)


def _check_stream(
  key: str, arrays: Arrays, stored: str, lengths: np.ndarray, sizes: np.ndarray
) -> None:
  """Raises `ValueError` if tokens are not unsigned integers or do not match their lengths."""
  dtype, shape = arrays.dtype(stored), arrays.shape(stored)
  if dtype.kind != "u" or len(shape) not in (1, 2):
    raise ValueError(f"{key} is {dtype} of shape {shape}, not unsigned integers")
  if lengths.dtype.kind not in "iu" or lengths.shape != sizes.shape or (lengths < 0).any():
    raise ValueError(f"the lengths of {key} are {lengths.dtype} of shape {lengths.shape}")
  if int(lengths.sum()) != shape[0] or (lengths * math.prod(shape[1:]) != sizes).any():
    raise ValueError(f"{key} has {shape[0]} steps, its clips have {lengths.sum()}")
