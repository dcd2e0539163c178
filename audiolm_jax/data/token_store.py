"""A folder of token shards and what they were made with; written clip by clip, read at once.

    store.json                 token hash, specs, hours, tokens, speakers, shards, skipped clips
    tokens-0f3a51c2d4e6.npz    some clips: ids, splits, speakers, seconds, semantic, codes

Shards are whole or not there, never changed, and named by the clips in them, so that whoever makes
one again makes the same file. `store.json` is what readers go by; a writer takes up the shards that
a killed run left behind.
"""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int

from audiolm_jax import storage
from audiolm_jax.errors import DataError
from audiolm_jax.lm.stages import StageSpec

FORMAT_VERSION = 1
STORE_FILE = "store.json"
_SHARD = ("tokens-", ".npz")
_DAMAGED = (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile)
_READ_AT_ONCE = 16  # shards; a bucket answers slowly


@dataclasses.dataclass(frozen=True)
class TokenClip:
  """The tokens of one clip.

  Attributes:
    id: of the clip, unique in the store.
    semantic: [steps], unsigned; None where the store has none.
    codes: [frames, quantizers], unsigned.
    split: "train", "valid", ...
    speaker: None where unknown.
    seconds: of audio.
  """

  id: str
  semantic: Int[np.ndarray, " steps"] | None
  codes: Int[np.ndarray, "frames quantizers"] | None
  split: str = "train"
  speaker: str | None = None
  seconds: float = 0.0


@dataclasses.dataclass
class StoreInfo:
  """What `store.json` says.

  Attributes:
    token_hash: of the tokenizers' weights and settings.
    codec: numbers of the codec, as in its spec.
    semantic: numbers of the semantic tokenizer, as in its spec.
    complete: every clip of the corpus is there or listed as skipped.
    clips: per split.
    hours: of audio, per split.
    semantic_tokens: count over all splits.
    acoustic_tokens: frames times quantizers, over all splits.
    speakers: distinct ones that have a name.
    shards: file names with the number of clips in each.
    skipped: id of a clip to the reason.
  """

  token_hash: str
  codec: dict[str, Any] = dataclasses.field(default_factory=dict)
  semantic: dict[str, Any] = dataclasses.field(default_factory=dict)
  complete: bool = False
  clips: dict[str, int] = dataclasses.field(default_factory=dict)
  hours: dict[str, float] = dataclasses.field(default_factory=dict)
  semantic_tokens: int = 0
  acoustic_tokens: int = 0
  speakers: int = 0
  shards: dict[str, int] = dataclasses.field(default_factory=dict)
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)
  format_version: int = FORMAT_VERSION

  def report(self, bytes_of_shards: int | None = None) -> str:
    """A few lines for people; with what an hour of audio takes up where the bytes are given."""
    splits = ", ".join(
      f"{split} {self.clips[split]} clips {self.hours[split]:.2f} h" for split in sorted(self.clips)
    )
    lines = [
      splits or "no clips",
      *([] if self.complete else ["unfinished: run cache_tokens again"]),
      f"{self.semantic_tokens:,} semantic and {self.acoustic_tokens:,} acoustic tokens, "
      f"{self.speakers} named speakers, {len(self.shards)} shards, token hash {self.token_hash}",
      *self._storage(bytes_of_shards),
      f"{len(self.skipped)} clips skipped",
      *(f"  {name}: {reason}" for name, reason in sorted(self.skipped.items())[:20]),
    ]
    if len(self.skipped) > 20:
      lines.append(f"  and {len(self.skipped) - 20} more, all in {STORE_FILE}")
    return "\n".join(lines)

  def _storage(self, bytes_of_shards: int | None) -> list[str]:
    hours = sum(self.hours.values())
    if bytes_of_shards is None or not hours:
      return []
    per_hour = bytes_of_shards / hours / 1e6
    return [f"{bytes_of_shards / 1e6:.2f} MB in shards, {per_hour:.2f} MB per hour of audio"]


class TokenStoreWriter:
  """Writes a store, or goes on with one that was begun with the same tokenizers.

  Args:
    folder: of the store; made if missing.
    token_hash: of the tokenizers.
    codec: spec numbers to note.
    semantic: spec numbers to note.
    clips_per_shard: a shard is written when it has this many,
    seconds_per_shard: or this much audio.
  Raises:
    DataError: the folder holds a store of other tokenizers.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    token_hash: str,
    *,
    codec: Mapping[str, Any] | None = None,
    semantic: Mapping[str, Any] | None = None,
    clips_per_shard: int = 256,
    seconds_per_shard: float = 1800.0,
  ):
    self.folder = os.fspath(folder)
    self._make_folder()
    self._clips_per_shard = clips_per_shard
    self._seconds_per_shard = seconds_per_shard
    self._pending: list[TokenClip] = []
    self._done: set[str] = set()
    self._speakers: set[str] = set()
    self.info = StoreInfo(token_hash, dict(codec or {}), dict(semantic or {}))
    if storage.exists(storage.join(self.folder, STORE_FILE)):
      self.info = read_info(self.folder)
      check_hash(self.info, token_hash, self.folder)
      self.info.complete = False
      self.info.skipped = {}
      for clips in _listed_shards(self.folder, self.info, tokens=False):
        for clip in clips:
          self._note(clip)
    self._take_up_shards()
    self._write_info()

  def __contains__(self, clip_id: str) -> bool:
    """Whether the clip is in the store, or about to be."""
    return clip_id in self._done

  def add(self, clip: TokenClip) -> None:
    """Takes one clip; writes a shard when enough have come.

    Raises:
      DataError: its id is there already, or its tokens are not whole numbers from 0 on.
    """
    if clip.id in self._done:
      raise DataError(f"{clip.id} is already in {self.folder}; clip ids must be unique")
    self._pending.append(_compacted(clip))
    self._note(clip)
    seconds = sum(clip.seconds for clip in self._pending)
    if len(self._pending) >= self._clips_per_shard or seconds >= self._seconds_per_shard:
      self.flush()

  def skip(self, clip_id: str, reason: str) -> None:
    """Notes a clip that has no tokens, to be tried again by a later run."""
    self.info.skipped[clip_id] = reason

  def flush(self) -> None:
    """Writes what is pending as one shard."""
    if not self._pending:
      return
    name = write_shard(self.folder, self._pending, self.info.token_hash)
    self.info.shards[name] = len(self._pending)
    for clip in self._pending:
      self._count(clip, _sizes(clip))
    self._pending = []
    self._write_info()

  def save(self) -> None:
    """Writes the rest, and what was skipped, of a store that is not whole."""
    self.flush()
    self._write_info()

  def finish(self) -> StoreInfo:
    """Writes the rest and says that the store is whole."""
    self.info.complete = True
    self.save()
    return self.info

  def _take_up_shards(self) -> None:
    """Adds the shards that are there and not yet listed."""
    names = [name for name in shard_files(self.folder) if name not in self.info.shards]
    for shard in _found_shards(self.folder, names):
      if shard.token_hash != self.info.token_hash:
        raise DataError(
          f"{self.folder} holds {shard.name} of other tokenizers ({shard.token_hash}) than the "
          f"bundle's ({self.info.token_hash}); choose another --output_dir"
        )
      twice = next((clip.id for clip in shard.clips if clip.id in self._done), None)
      if twice is not None:
        raise DataError(
          f"{twice} is in {shard.name} of {self.folder} and in another shard; two runs wrote at "
          f"once or the data changed: remove {shard.name} and run cache_tokens again"
        )
      self.info.shards[shard.name] = len(shard.clips)
      for clip, sizes in zip(shard.clips, shard.sizes, strict=True):
        self._note(clip)
        self._count(clip, sizes)

  def _note(self, clip: TokenClip) -> None:
    self._done.add(clip.id)
    if clip.speaker is not None:
      self._speakers.add(clip.speaker)

  def _count(self, clip: TokenClip, sizes: "_Sizes") -> None:
    info = self.info
    info.clips[clip.split] = info.clips.get(clip.split, 0) + 1
    info.hours[clip.split] = info.hours.get(clip.split, 0.0) + clip.seconds / 3600
    info.semantic_tokens += sizes.semantic
    info.acoustic_tokens += sizes.codes
    info.speakers = len(self._speakers)

  def _write_info(self) -> None:
    with storage.write_whole(storage.join(self.folder, STORE_FILE)) as file:
      file.write(json.dumps(dataclasses.asdict(self.info), indent=1).encode())

  def _make_folder(self) -> None:
    try:
      storage.make_folder(self.folder)
    except OSError as error:
      raise DataError(
        f"cannot make the folder {self.folder} ({error.strerror}); choose another --output_dir"
      ) from error


class TokenStore:
  """Every clip of a store, in memory.

  Args:
    folder: of the store.
    token_hash: of the tokenizers that the tokens are wanted of; None takes any.
    allow_incomplete: take a store whose making has not ended.
  Raises:
    DataError: no store, damaged, made with other tokenizers, or not finished.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    token_hash: str | None = None,
    *,
    allow_incomplete: bool = False,
  ):
    self.folder = os.fspath(folder)
    self.info = read_info(folder)
    if token_hash is not None:
      check_hash(self.info, token_hash, self.folder)
    if not (self.info.complete or allow_incomplete):
      raise DataError(
        f"the token store {folder} is unfinished ({sum(self.info.clips.values())} clips so far); "
        "run cache_tokens on it again to finish it"
      )
    self._clips = [clip for clips in _listed_shards(self.folder, self.info) for clip in clips]

  def __len__(self) -> int:
    return len(self._clips)

  def clips(self, split: str | None = None) -> list[TokenClip]:
    """The clips of one split or of all, sorted by id.

    Raises:
      DataError: the split has none.
    """
    chosen = [clip for clip in self._clips if split in (None, clip.split)]
    if not chosen:
      there = ", ".join(sorted(self.info.clips)) or "none"
      raise DataError(f"{self.folder} has no clip of the split {split!r}; its splits are {there}")
    return sorted(chosen, key=lambda clip: clip.id)


def shard_name(key: Sequence[str]) -> str:
  """The file name of the shard of these clip ids, or of whatever else says what is in it."""
  return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12].join(_SHARD)


def write_shard(
  folder: str | os.PathLike[str],
  clips: Sequence[TokenClip],
  token_hash: str,
  name: str | None = None,
) -> str:
  """Writes some clips as one shard, whole or not at all, and returns its name.

  `store.json` is left alone: a writer takes the shard up.

  Args:
    name: by `shard_name`; None for that of the clips' ids.
  Raises:
    DataError: tokens that are not whole numbers from 0 on, or of one kind here and two there.
    UserError: it cannot be written.
  """
  name = name or shard_name(sorted(clip.id for clip in clips))
  arrays = _shard_arrays([_compacted(clip) for clip in clips], token_hash)
  with storage.write_whole(storage.join(folder, name)) as file:
    np.savez_compressed(file, **arrays)
  return name


def shard_files(folder: str | os.PathLike[str]) -> dict[str, int]:
  """Name and bytes of every shard in a folder, listed in `store.json` or not."""
  return {
    name: size
    for name, size in storage.list_files(folder)
    if name.startswith(_SHARD[0]) and name.endswith(_SHARD[1])
  }


def read_info(folder: str | os.PathLike[str]) -> StoreInfo:
  """What is in a store, without reading its tokens.

  Raises:
    DataError: no store there, or one that this version cannot read.
  """
  path = storage.join(folder, STORE_FILE)
  try:
    fields = json.loads(storage.read_text(path))
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
      raise DataError(
        f"{path} has format version {version}, this program reads {FORMAT_VERSION}; "
        "make the store again with cache_tokens"
      )
    return StoreInfo(**fields)
  except FileNotFoundError as error:
    raise DataError(f"{folder} is no token store (no {STORE_FILE}); run cache_tokens") from error
  except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
    raise DataError(f"{path} is damaged ({error}); make the store again") from error


def report(folder: str | os.PathLike[str]) -> str:
  """What `info` prints of a store, finished or not.

  Raises:
    DataError: as `read_info`.
  """
  info = read_info(folder)
  sizes = shard_files(folder)
  return info.report(sum(sizes.get(name, 0) for name in info.shards))


def check_hash(info: StoreInfo, token_hash: str, folder: str | os.PathLike[str]) -> None:
  """Refuses tokens that other tokenizers made.

  Raises:
    DataError: the hashes differ.
  """
  if info.token_hash != token_hash:
    raise DataError(
      f"the tokens in {folder} were made by other tokenizers ({info.token_hash}) than the "
      f"bundle's ({token_hash}); run cache_tokens with this bundle into another folder"
    )


def check_stage(spec: StageSpec, codec: Mapping[str, Any], semantic: Mapping[str, Any]) -> None:
  """Refuses a stage whose numbers are not those of the tokens it is to be trained on.

  Args:
    spec: of the stage.
    codec: numbers of the codec's spec.
    semantic: numbers of the semantic tokenizer's spec.
  Raises:
    DataError: a rate or a vocabulary differs.
  """
  compared: list[tuple[str, Any, Any]] = []
  if spec.uses_semantic and semantic:
    rate = semantic["sample_rate"] / semantic["hop_length"]
    compared += [("semantic_rate", spec.semantic_rate, rate)]
    compared += [("num_clusters", spec.num_clusters, semantic["num_clusters"])]
  if not spec.predicts_semantic and codec:
    rate = codec["sample_rate"] / codec["hop_length"]
    compared += [("frame_rate", spec.frame_rate, rate)]
    compared += [("codebook_size", spec.codebook_size, codec["codebook_size"])]
    most = min(spec.num_quantizers, codec["num_quantizers"])
    compared += [("number of acoustic levels", spec.num_quantizers, most)]
  for name, of_stage, of_tokens in compared:
    if of_stage != of_tokens:
      raise DataError(
        f"the {spec.name} stage has a {name} of {of_stage:g}, its tokens have {of_tokens:g}; "
        "configure the stage for the tokenizers that made the tokens"
      )


class _Sizes(NamedTuple):
  """How many tokens a clip has."""

  semantic: int
  codes: int


class _Found(NamedTuple):
  """A shard that no `store.json` lists: its clips without their tokens, and how many they have."""

  name: str
  token_hash: str
  clips: list[TokenClip]
  sizes: list[_Sizes]


def _sizes(clip: TokenClip) -> _Sizes:
  return _Sizes(*(0 if tokens is None else tokens.size for tokens in (clip.semantic, clip.codes)))


def _compacted(clip: TokenClip) -> TokenClip:
  return dataclasses.replace(
    clip, semantic=_compact(clip.semantic, clip.id), codes=_compact(clip.codes, clip.id)
  )


def _compact(tokens: np.ndarray | None, clip_id: str) -> np.ndarray | None:
  if tokens is None:
    return None
  tokens = np.asarray(tokens)
  if not np.issubdtype(tokens.dtype, np.integer) or (tokens.size and int(tokens.min()) < 0):
    raise DataError(f"the tokens of {clip_id} are not whole numbers from 0 on ({tokens.dtype})")
  fits = not tokens.size or int(tokens.max()) < 2**16
  return tokens.astype(np.uint16 if fits else np.uint32)


def _shard_arrays(clips: Sequence[TokenClip], token_hash: str) -> dict[str, Any]:
  sizes = [_sizes(clip) for clip in clips]
  arrays: dict[str, Any] = {
    "token_hash": np.array(token_hash),
    "sizes": np.array(sizes, np.int64).reshape(-1, 2),
    "ids": np.array([clip.id for clip in clips]),
    "splits": np.array([clip.split for clip in clips]),
    "speakers": np.array([clip.speaker or "" for clip in clips]),
    "seconds": np.array([clip.seconds for clip in clips], np.float64),
  }
  for name in ("semantic", "codes"):
    rows = [getattr(clip, name) for clip in clips]
    if all(row is not None for row in rows):
      arrays[name] = np.concatenate(rows)
      arrays[f"{name}_lengths"] = np.array([len(row) for row in rows], np.int64)
    elif any(row is not None for row in rows):
      raise DataError(f"some clips have {name} tokens and some have none; a store has one kind")
  return arrays


def _listed_shards(folder: str, info: StoreInfo, tokens: bool = True) -> Iterator[list[TokenClip]]:
  """The clips of each shard of a store, with their tokens or without."""

  def read(name: str) -> list[TokenClip]:
    path = storage.join(folder, name)
    try:
      with _opened(path) as file, np.load(file) as arrays:
        return _shard_clips(arrays, tokens)
    except _DAMAGED as error:
      raise DataError(
        f"the shard {path} is damaged or missing ({error}); make the store again"
      ) from error

  with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
    for (name, count), clips in zip(info.shards.items(), pool.map(read, info.shards), strict=True):
      if len(clips) != count:
        raise DataError(
          f"the shard {storage.join(folder, name)} has {len(clips)} clips instead of {count}; "
          "make it again"
        )
      yield clips


def _found_shards(folder: str, names: Sequence[str]) -> Iterator[_Found]:
  """Those of the named shards that are whole, in order."""

  def read(name: str) -> _Found | None:
    try:
      with _opened(storage.join(folder, name)) as file, np.load(file) as arrays:
        sizes = [_Sizes(int(semantic), int(codes)) for semantic, codes in arrays["sizes"]]
        return _Found(name, str(arrays["token_hash"]), _shard_clips(arrays, False), sizes)
    except _DAMAGED:
      return None

  with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
    yield from (shard for shard in pool.map(read, names) if shard is not None)


def _opened(path: str) -> BinaryIO:
  return io.BytesIO(storage.read_bytes(path)) if storage.is_url(path) else open(path, "rb")


def _shard_clips(shard: Mapping[str, np.ndarray], tokens: bool) -> list[TokenClip]:
  streams = {}
  for name in ("semantic", "codes"):
    there = tokens and name in shard
    ends = np.cumsum(shard[f"{name}_lengths"]) if there else np.zeros(0, np.int64)
    streams[name] = np.split(shard[name], ends[:-1]) if there else [None] * len(shard["ids"])
  rows = zip(
    shard["ids"], shard["splits"], shard["speakers"], shard["seconds"], *streams.values(),
    strict=True,
  )  # fmt: skip
  return [
    TokenClip(str(i), semantic, codes, str(split), str(speaker) or None, float(seconds))
    for i, split, speaker, seconds, semantic, codes in rows
  ]
