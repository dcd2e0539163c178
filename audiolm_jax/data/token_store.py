"""A folder of token shards and what they were made with; written clip by clip, read at once.

    store.json        token hash, specs, hours, tokens, speakers, shards, skipped clips
    tokens-00000.npz  some clips: ids, splits, speakers, seconds, semantic, codes

Shards are never changed once written and `store.json` is replaced after each, so that a run that
was killed goes on after its last whole shard.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from audiolm_jax.errors import DataError
from audiolm_jax.files import atomic_write
from audiolm_jax.lm.stages import StageSpec

FORMAT_VERSION = 1
STORE_FILE = "store.json"


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

  def report(self) -> str:
    """A few lines for people."""
    splits = ", ".join(
      f"{split} {self.clips[split]} clips {self.hours[split]:.2f} h" for split in sorted(self.clips)
    )
    lines = [
      splits or "no clips",
      f"{self.semantic_tokens:,} semantic and {self.acoustic_tokens:,} acoustic tokens, "
      f"{self.speakers} named speakers, {len(self.shards)} shards, token hash {self.token_hash}",
      f"{len(self.skipped)} clips skipped",
      *(f"  {name}: {reason}" for name, reason in sorted(self.skipped.items())[:20]),
    ]
    if len(self.skipped) > 20:
      lines.append(f"  and {len(self.skipped) - 20} more, all in {STORE_FILE}")
    return "\n".join(lines)


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
    self.folder = Path(folder)
    self._make_folder()
    self._clips_per_shard = clips_per_shard
    self._seconds_per_shard = seconds_per_shard
    self._pending: list[TokenClip] = []
    self._done: set[str] = set()
    self._speakers: set[str] = set()
    self.info = StoreInfo(token_hash, dict(codec or {}), dict(semantic or {}))
    if (self.folder / STORE_FILE).exists():
      self.info = read_info(self.folder)
      check_hash(self.info, token_hash, self.folder)
      self.info.complete = False
      self.info.skipped = {}
      for clip in _read_shards(self.folder, self.info, tokens=False):
        self._note(clip)
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
    stored = dataclasses.replace(
      clip, semantic=_compact(clip.semantic, clip.id), codes=_compact(clip.codes, clip.id)
    )
    self._pending.append(stored)
    self._note(stored)
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
    name = f"tokens-{len(self.info.shards):05d}.npz"
    with atomic_write(self.folder / name) as file:
      np.savez_compressed(file, **_shard_arrays(self._pending))
    self.info.shards[name] = len(self._pending)
    for clip in self._pending:
      self._count(clip)
    self._pending = []
    self._write_info()

  def finish(self) -> StoreInfo:
    """Writes the rest and says that the store is whole."""
    self.flush()
    self.info.complete = True
    self._write_info()
    return self.info

  def _note(self, clip: TokenClip) -> None:
    self._done.add(clip.id)
    if clip.speaker is not None:
      self._speakers.add(clip.speaker)

  def _count(self, clip: TokenClip) -> None:
    info = self.info
    info.clips[clip.split] = info.clips.get(clip.split, 0) + 1
    info.hours[clip.split] = info.hours.get(clip.split, 0.0) + clip.seconds / 3600
    info.semantic_tokens += 0 if clip.semantic is None else clip.semantic.size
    info.acoustic_tokens += 0 if clip.codes is None else clip.codes.size
    info.speakers = len(self._speakers)

  def _write_info(self) -> None:
    with atomic_write(self.folder / STORE_FILE) as file:
      file.write(json.dumps(dataclasses.asdict(self.info), indent=1).encode())

  def _make_folder(self) -> None:
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
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
    self.folder = Path(folder)
    self.info = read_info(folder)
    if token_hash is not None:
      check_hash(self.info, token_hash, self.folder)
    if not (self.info.complete or allow_incomplete):
      raise DataError(
        f"the token store {folder} is unfinished ({sum(self.info.clips.values())} clips so far); "
        "run cache_tokens on it again to finish it"
      )
    self._clips = list(_read_shards(self.folder, self.info))

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


def read_info(folder: str | os.PathLike[str]) -> StoreInfo:
  """What is in a store, without reading its tokens.

  Raises:
    DataError: no store there, or one that this version cannot read.
  """
  path = Path(folder) / STORE_FILE
  try:
    fields = json.loads(path.read_text(encoding="utf-8"))
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


def _compact(tokens: np.ndarray | None, clip_id: str) -> np.ndarray | None:
  if tokens is None:
    return None
  tokens = np.asarray(tokens)
  if not np.issubdtype(tokens.dtype, np.integer) or (tokens.size and int(tokens.min()) < 0):
    raise DataError(f"the tokens of {clip_id} are not whole numbers from 0 on ({tokens.dtype})")
  fits = not tokens.size or int(tokens.max()) < 2**16
  return tokens.astype(np.uint16 if fits else np.uint32)


def _shard_arrays(clips: Sequence[TokenClip]) -> dict[str, Any]:
  arrays: dict[str, Any] = {
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


def _read_shards(folder: Path, info: StoreInfo, tokens: bool = True) -> Iterator[TokenClip]:
  for name, count in info.shards.items():
    path = folder / name
    try:
      with open(path, "rb") as file, np.load(file) as shard:
        clips = _shard_clips(shard, tokens)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise DataError(
        f"the shard {path} is damaged or missing ({error}); make the store again"
      ) from error
    if len(clips) != count:
      raise DataError(f"the shard {path} has {len(clips)} clips instead of {count}; make it again")
    yield from clips


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
