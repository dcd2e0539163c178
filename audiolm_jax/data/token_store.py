"""Token stores: folders with the tokens of a corpus in shards, which are read as a whole.

    store.json                 token hash, streams, hours, tokens, speakers, shards, skipped clips
    tokens-0f3a51c2d4e6.npz    the tokens of some clips, see `token_shards`

Readers use only the shards that `store.json` lists. A writer also adds the undamaged shards that a
killed run did not list.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from audiolm_jax.core import configs, plain_json
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.ranges import Hours, Total
from audiolm_jax.core.streams import (
  CODES,
  SEMANTIC,
  Stream,
  by_key,
  of_pairs,
  of_tokenizers,
)
from audiolm_jax.data import token_shards
from audiolm_jax.data.outdated_clips import Outdated
from audiolm_jax.data.token_shards import StoredShard, TokenClip
from audiolm_jax.io import storage
from audiolm_jax.lm.stage import StageSpec

FORMAT_VERSION = 2
STORE_FILE = "store.json"
_COMPARED_AT_ONCE = 16  # files; hides the latency of buckets


@dataclasses.dataclass
class StoreInfo:
  """The content of `store.json`.

  Attributes:
    token_hash: hash of the weights and settings of the tokenizers.
    streams: the streams of each clip, by key.
    complete: whether every clip of the corpus is in the store or listed as skipped.
    clips: number of clips per split.
    hours: hours of audio per split.
    tokens: number of tokens (steps times levels) over all splits, by stream key.
    speakers: number of distinct named speakers.
    shards: number of clips in each shard, by file name.
    skipped: reason for each skipped clip, by clip id.
    format_version: version of the format of `store.json`.
  """

  token_hash: str
  streams: dict[str, Stream] = dataclasses.field(default_factory=dict[str, Stream])
  complete: bool = False
  clips: dict[str, Total] = dataclasses.field(default_factory=dict[str, Total])
  hours: dict[str, Hours] = dataclasses.field(default_factory=dict[str, Hours])
  tokens: dict[str, Total] = dataclasses.field(default_factory=dict[str, Total])
  speakers: Total = 0
  shards: dict[str, Total] = dataclasses.field(default_factory=dict[str, Total])
  skipped: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
  format_version: int = FORMAT_VERSION

  def report(self, bytes_of_shards: int | None = None) -> str:
    """Returns a summary of several lines.

    Args:
      bytes_of_shards: total size of the shards; None for a summary without storage per hour.
    """
    splits = ", ".join(
      f"{split} {self.clips[split]} clips {self.hours[split]:.2f} h" for split in sorted(self.clips)
    )
    tokens = " and ".join(f"{count:,} {key}" for key, count in sorted(self.tokens.items()))
    lines = [
      splits or "no clips",
      *([] if self.complete else ["unfinished: run cache_tokens again"]),
      f"{tokens or 'no'} tokens, "
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
  """Writes a new store, or adds clips to an existing store of the same tokenizers.

  Added clips are pending until they are written as a shard. An existing store changes on disk only
  when `save`, `flush`, `drop` or `finish` is called, or when `add` writes a shard.

  Args:
    folder: folder of the store; created if it does not exist.
    token_hash: hash of the tokenizers.
    streams: the streams of each clip in a new store; an existing store keeps its streams.
    clips_per_shard: a shard is written when it has this number of clips.
    seconds_per_shard: a shard is written when it has this number of seconds of audio.

  Raises:
    DataError: the folder cannot be created, or contains a store that is damaged or has tokens of
      other tokenizers.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    token_hash: str,
    *,
    streams: Iterable[Stream] = (),
    clips_per_shard: int = 256,
    seconds_per_shard: float = 1800.0,
  ):
    self.folder = os.fspath(folder)
    self._make_folder()
    self._clips_per_shard = clips_per_shard
    self._seconds_per_shard = seconds_per_shard
    self._pending: list[TokenClip] = []
    self._done: dict[str, TokenClip] = {}  # without tokens
    self._shard_of: dict[str, str] = {}  # shard name by clip id, for the clips that are not pending
    self._speakers: set[str] = set()
    self.info = StoreInfo(token_hash, by_key(streams))
    exists = storage.exists(storage.join(self.folder, STORE_FILE))
    if exists:
      self.info = read_info(self.folder)
      check_hash(self.info, token_hash, self.folder)
      self.info.complete = False
      self.info.skipped = {}
      for shard in _listed_shards(self.folder, self.info, tokens=False):
        for clip in shard.clips:
          self._note(clip)
          self._shard_of[clip.id] = shard.name
    self._take_up_shards()
    if not exists:
      self._write_info()

  def __contains__(self, clip_id: str) -> bool:
    """Returns whether the clip is in the store or pending."""
    return clip_id in self._done

  def find_outdated(
    self, sizes: Mapping[str, int | None], content_of: Callable[[str], str | None]
  ) -> Outdated:
    """Compares the recorded sizes and hashes of the clips with the files of the corpus.

    Args:
      sizes: size in bytes of each file of the corpus, by clip id; None if unknown.
      content_of: function that maps a clip id to the hash of the clip's file, or to None if the
        file cannot be read.

    Returns:
      The clips whose files have changed or cannot be read, and the clips that are not in the
      corpus.
    """
    kept = [clip for clip in self._done.values() if clip.id in sizes]
    changed = {
      clip.id: f"{clip.size} bytes then, {size} now"
      for clip in kept
      if None not in (clip.size, size := sizes[clip.id]) and clip.size != size
    }
    hashed = [clip for clip in kept if clip.content is not None and clip.id not in changed]
    with ThreadPoolExecutor(_COMPARED_AT_ONCE) as pool:
      for clip, content in zip(hashed, pool.map(content_of, [c.id for c in hashed]), strict=True):
        if content is None:
          changed[clip.id] = "cannot be read any more"
        elif content != clip.content:
          changed[clip.id] = "other content"
    return Outdated(changed, [clip_id for clip_id in self._done if clip_id not in sizes])

  def drop(self, clip_ids: Collection[str]) -> None:
    """Removes clips from the store and rewrites only the shards of these clips.

    `store.json` does not list these shards while they are rewritten. If the process is killed, the
    store remains valid, and the next writer adds the unlisted shards again.

    Raises:
      DataError: a shard of these clips is damaged.
      UserError: a shard cannot be rewritten.
    """
    self.flush()
    dropped = {clip_id for clip_id in clip_ids if clip_id in self._done}
    names = sorted({self._shard_of[clip_id] for clip_id in dropped})
    if not names:
      return
    # All shards are read before anything changes: a damaged shard changes neither files nor totals.
    for shard in list(token_shards.read_shards(self.folder, names, tokens=False)):
      del self.info.shards[shard.name]
      for clip, counts in zip(shard.clips, shard.counts, strict=True):
        self._count(clip, counts, -1)
        del self._done[clip.id], self._shard_of[clip.id]
    self._speakers = {clip.speaker for clip in self._done.values() if clip.speaker is not None}
    self.info.speakers = len(self._speakers)
    self._write_info()
    for name in names:
      [shard] = token_shards.read_shards(self.folder, [name])
      kept = [clip for clip in shard.clips if clip.id not in dropped]
      if kept:
        token_shards.write_shard(self.folder, kept, self.info.token_hash, name)
        self._add_shard(name, kept, map(token_shards.count_tokens, kept))
      else:
        storage.remove_file(storage.join(self.folder, name))
    self._write_info()

  def add(self, clip: TokenClip) -> None:
    """Adds one clip, and writes a shard if enough clips or seconds of audio are pending.

    Raises:
      DataError: the store already has a clip with this id, or tokens are not integers of at least
        0.
    """
    if clip.id in self._done:
      raise DataError(f"{clip.id} is already in {self.folder}; clip ids must be unique")
    self._pending.append(token_shards.compacted(clip))
    self._note(clip)
    seconds = sum(clip.seconds for clip in self._pending)
    if len(self._pending) >= self._clips_per_shard or seconds >= self._seconds_per_shard:
      self.flush()

  def skip(self, clip_id: str, reason: str) -> None:
    """Records a skipped clip and the reason; a later run tries to tokenize the clip again."""
    self.info.skipped[clip_id] = reason

  def flush(self) -> None:
    """Writes the pending clips as one shard."""
    if not self._pending:
      return
    name = token_shards.write_shard(self.folder, self._pending, self.info.token_hash)
    self._add_shard(name, self._pending, map(token_shards.count_tokens, self._pending))
    self._pending = []
    self._write_info()

  def save(self) -> None:
    """Writes the pending clips and the skipped ids; does not mark the store as complete."""
    self.flush()
    self._write_info()

  def finish(self) -> StoreInfo:
    """Writes the pending clips and marks the store as complete."""
    self.info.complete = True
    self.save()
    return self.info

  def _take_up_shards(self) -> None:
    """Adds the undamaged shards in the folder that `store.json` does not list.

    Raises:
      DataError: a shard has tokens of other tokenizers or a clip that is already in the store.
    """
    names = [n for n in token_shards.shard_files(self.folder) if n not in self.info.shards]
    found = token_shards.read_shards(self.folder, names, tokens=False, skip_damaged=True)
    for shard in found:
      if shard.token_hash != self.info.token_hash:
        raise DataError(
          f"{self.folder} contains {shard.name} of other tokenizers ({shard.token_hash}) than the "
          f"bundle's ({self.info.token_hash}); choose another --output_dir"
        )
      twice = next((clip.id for clip in shard.clips if clip.id in self._done), None)
      if twice is not None:
        raise DataError(
          f"{twice} is in {shard.name} of {self.folder} and in another shard; two runs wrote at "
          f"the same time or the data changed: remove {shard.name} and run cache_tokens again"
        )
      self._add_shard(shard.name, shard.clips, shard.counts)

  def _add_shard(
    self, name: str, clips: Sequence[TokenClip], counts: Iterable[Mapping[str, int]]
  ) -> None:
    """Adds a written shard to the list and to the totals of the store."""
    self.info.shards[name] = len(clips)
    for clip, tokens in zip(clips, counts, strict=True):
      self._note(clip)
      self._shard_of[clip.id] = name
      self._count(clip, tokens)

  def _note(self, clip: TokenClip) -> None:
    self._done[clip.id] = dataclasses.replace(clip, streams={})
    if clip.speaker is not None:
      self._speakers.add(clip.speaker)

  def _count(self, clip: TokenClip, counts: Mapping[str, int], sign: int = 1) -> None:
    """Adds a clip to the totals of the store, or subtracts the clip if `sign` is -1."""
    info, split = self.info, clip.split
    info.clips[split] = info.clips.get(split, 0) + sign
    # Because of rounding errors, a difference of hours can be below 0.
    info.hours[split] = max(0.0, info.hours.get(split, 0.0) + sign * clip.seconds / 3600)
    if not info.clips[split]:
      del info.clips[split], info.hours[split]
    for key, stream in of_pairs(info.streams).items():
      if key in counts:
        info.streams.setdefault(key, stream)
    for key, count in counts.items():
      info.tokens[key] = info.tokens.get(key, 0) + sign * count
    info.speakers = len(self._speakers)

  def _write_info(self) -> None:
    with storage.write_whole(storage.join(self.folder, STORE_FILE)) as file:
      file.write(json.dumps(configs.to_dict(self.info), indent=1).encode())

  def _make_folder(self) -> None:
    try:
      storage.make_folder(self.folder)
    except OSError as error:
      raise DataError(
        f"cannot create the folder {self.folder} ({error.strerror}); choose another --output_dir"
      ) from error


class TokenStore:
  """All clips of a store, in memory.

  Args:
    folder: folder of the store.
    token_hash: hash that the tokenizers must have; None accepts all hashes.
    allow_incomplete: whether to accept an unfinished store.

  Raises:
    DataError: the store is missing, damaged or unfinished, or has tokens of other tokenizers.
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
    self._clips = [clip for shard in _listed_shards(self.folder, self.info) for clip in shard.clips]

  def __len__(self) -> int:
    return len(self._clips)

  def clips(self, split: str | None = None) -> list[TokenClip]:
    """Returns the clips of a split, sorted by id; the clips of all splits if `split` is None.

    Raises:
      DataError: the split has no clips.
    """
    chosen = [clip for clip in self._clips if split in (None, clip.split)]
    if not chosen:
      known = ", ".join(sorted(self.info.clips)) or "none"
      raise DataError(
        f"{self.folder} has no clip of the split {split!r}; its splits are {known}: give some "
        "clips this split and run cache_tokens into another folder; EVAL_PERIOD=0 trains without "
        "evaluation"
      )
    return sorted(chosen, key=lambda clip: clip.id)


def read_info(folder: str | os.PathLike[str]) -> StoreInfo:
  """Returns the description of a store, without reading its tokens.

  Raises:
    DataError: the store is missing or damaged, or this version cannot read it.
  """
  path = storage.join(folder, STORE_FILE)
  try:
    token_shards.check_regular(path)
    fields = plain_json.parse(storage.read_bytes(path))
    version = fields.get("format_version")
    if version == 1:
      fields, version = _from_1(fields), FORMAT_VERSION
    if version != FORMAT_VERSION:
      raise DataError(
        f"{path} has format version {configs.shown(version)}, this program reads 1 to "
        f"{FORMAT_VERSION}; create the store again with cache_tokens"
      )
    info = configs.from_dict(StoreInfo, fields)
    _check_info(info)
    return info
  except FileNotFoundError as error:
    raise DataError(f"{folder} is not a token store: no {STORE_FILE}; run cache_tokens") from error
  except (OSError, ValueError, AttributeError, TypeError, KeyError, ConfigError) as error:
    if isinstance(error, DataError):
      raise
    raise DataError(f"{path} is damaged ({error}); create the store again") from error


def _check_info(info: StoreInfo) -> None:
  """Checks the names of streams and shards, the token hash, and the names of splits.

  Raises:
    ConfigError: a name or the hash is invalid, or `clips` and `hours` have different splits.
  """
  for key, stream in info.streams.items():
    if key != stream.key:
      raise ConfigError(f"the stream {configs.shown(key)} is described as {stream.key!r}")
  for name in info.shards:
    if not token_shards.is_shard_name(name):
      raise ConfigError(f"a shard is called {configs.shown(name)}")
  if not info.token_hash.isprintable() or len(info.token_hash) > 64:
    raise ConfigError(f"token_hash is {configs.shown(info.token_hash)}")
  if set(info.clips) != set(info.hours):
    raise ConfigError("clips and hours are of different splits")


def report(folder: str | os.PathLike[str]) -> str:
  """Returns the summary of a finished or unfinished store that `cache_tokens info` prints.

  Raises:
    DataError: see `read_info`.
  """
  info = read_info(folder)
  sizes = token_shards.shard_files(folder)
  return info.report(sum(sizes.get(name, 0) for name in info.shards))


def check_hash(info: StoreInfo, token_hash: str, folder: str | os.PathLike[str]) -> None:
  """Raises `DataError` if the tokens of a store do not have the hash `token_hash`."""
  if info.token_hash != token_hash:
    raise DataError(
      f"the tokens in {folder} are of other tokenizers ({info.token_hash}) than the "
      f"bundle's ({token_hash}); run cache_tokens with this bundle into another folder"
    )


def check_stage(spec: StageSpec, info: StoreInfo) -> None:
  """Raises `DataError` if a stage does not fit the tokens, see `StageSpec.check_streams`."""
  spec.check_streams(info.streams)


def _from_1(fields: Json) -> JsonDict:
  """Converts `store.json` from format 1, which describes two tokenizers instead of streams."""
  fields = dict(fields)
  codec, semantic = fields.pop("codec"), fields.pop("semantic")
  counts = fields.pop("semantic_tokens"), fields.pop("acoustic_tokens")
  streams = of_tokenizers(codec, semantic).values()
  return fields | {
    "streams": {stream.key: configs.to_dict(stream) for stream in streams},
    "tokens": {k: n for k, n in zip((SEMANTIC, CODES), counts, strict=True) if n},
    "format_version": FORMAT_VERSION,
  }


def _listed_shards(folder: str, info: StoreInfo, tokens: bool = True) -> Iterator[StoredShard]:
  for shard in token_shards.read_shards(folder, info.shards, tokens=tokens):
    path = storage.join(folder, shard.name)
    if len(shard.clips) != info.shards[shard.name]:
      raise DataError(
        f"the shard {path} has {len(shard.clips)} clips instead of {info.shards[shard.name]}; "
        "create the store again"
      )
    if shard.token_hash != info.token_hash:
      raise DataError(
        f"the shard {path} has tokens of other tokenizers ({shard.token_hash}) than {STORE_FILE} "
        f"states ({info.token_hash}); create the store again"
      )
    for clip in shard.clips if tokens else ():
      for key, found in clip.streams.items():
        _check_tokens(f"the shard {path}, clip {clip.id}", key, info.streams, found)
    yield shard


def _check_tokens(where: str, key: str, streams: Mapping[str, Stream], tokens: np.ndarray) -> None:
  """Raises `DataError` if tokens do not have the levels and the vocabulary of their stream."""
  stream = streams.get(key)
  if stream is None:  # the stage that reads the stream checks its tokens
    return
  levels, largest = tokens.shape[1] if tokens.ndim > 1 else 0, int(tokens.max(initial=0))
  if levels != stream.levels or largest >= max(stream.size, 1):
    raise DataError(
      f"{where}: {key} of shape {tokens.shape} reaches {largest}; {STORE_FILE} states "
      f"{stream.levels} levels of {stream.size}; create the store again"
    )
