"""Lists the clips of a folder or manifest with their splits, reads them and counts skipped ones."""

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int16

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import examples, layouts
from audiolm_jax.io import audio, storage

AUDIO_SUFFIXES = (
  *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"),
)
# Formats that cannot be decoded are listed too, so that such files are counted as skipped.
_UNDECODABLE_SUFFIXES = (".m4a", ".aac", ".wma")
_BLOCK_SAMPLES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Clip:
  """One audio file.

  Attributes:
    id: path relative to the folder or manifest; unique.
    path: path or URL of the file.
    split: "train", "valid" or another name from the manifest.
    speaker: from the manifest or the layout; None if unknown.
    seconds: duration from the manifest; None if unknown.
    label: class of the audio from the manifest; None if unknown.
    size: of the file in bytes; None if unknown.
    text: the spoken words, from the manifest; None if unknown.
  """

  id: str
  path: str
  split: str = "train"
  speaker: str | None = None
  seconds: float | None = None
  label: str | None = None
  size: int | None = None
  text: str | None = None


class SkipLog:
  """Counts the clips that cannot be used, with reasons, and raises an error if there are too many.

  Args:
    total: number of clips.
    max_skipped_fraction: largest accepted share of skipped clips.
  """

  def __init__(self, total: int, max_skipped_fraction: float = 0.01):
    self.total = total
    self.max_skipped_fraction = max_skipped_fraction
    self.skipped: dict[str, str] = {}
    self._lock = threading.Lock()

  def skip(self, clip_id: str, reason: str) -> None:
    """Counts one skipped clip.

    Raises:
      DataError: more than the accepted share was skipped.
    """
    with self._lock:
      self.skipped[clip_id] = reason
    self.check()

  def check(self) -> None:
    """Raises `DataError` if more than the accepted share was skipped."""
    with self._lock:
      too_many = len(self.skipped) > self.max_skipped_fraction * self.total
    if too_many:
      raise DataError(
        f"{self.report()}; more than max_skipped_fraction={self.max_skipped_fraction:g}: fix or "
        "remove these files, or raise it (in gin: MAX_SKIPPED_FRACTION)"
      )

  def report(self) -> str:
    """Returns one line with the number of skipped clips and the first reasons."""
    if not self.skipped:
      return f"all {self.total} clips are usable"
    shown = [f"{name} ({reason})" for name, reason in list(self.skipped.items())[:3]]
    more = len(self.skipped) - len(shown)
    tail = f" and {more} more" if more else ""
    return f"{len(self.skipped)} of {self.total} clips skipped: {', '.join(shown)}{tail}"


def list_clips(
  source: str | os.PathLike[str], valid_fraction: float = 0.05, layout: str | None = None
) -> list[Clip]:
  """Returns the clips of a folder or of a manifest, sorted by id.

  A folder is searched recursively; hidden files are ignored. Its layout defines splits and
  speakers. A manifest is a `.jsonl` file whose rows have `path` (relative to the manifest, or
  absolute) and optionally `split`, `speaker`, `seconds`, `label` and `text`. If no clip has a
  split, about `valid_fraction` of the clips, selected by a hash of the id, become `valid`: at least
  one of two or more.

  Args:
    source: path or URL of a folder or manifest.
    valid_fraction: validation share of a corpus without splits.
    layout: of a folder, one of `layouts.LAYOUTS`; None to detect it.

  Raises:
    DataError: the source is missing, empty or not a manifest, has another layout, has a row
      without `path`, or has the same path twice.
  """
  source = os.fspath(source)
  if source.startswith("tfds:"):
    raise DataError(f"{source} can be read through SeqIO only; name one of its tasks")
  if storage.is_folder(source):
    clips = _clips_of_folder(source, layout)
    kinds = " ".join(AUDIO_SUFFIXES)
    if not clips:
      raise DataError(f"{source} has no audio files ({kinds}); name another folder or a manifest")
  elif storage.exists(source):
    clips = _clips_of_manifest(source)
    if not clips:
      raise DataError(f"{source} has no rows; a manifest has one JSON object with a path per line")
  else:
    raise DataError(f"{source} does not exist; name a folder of audio files or a .jsonl manifest")
  if not any(clip.split for clip in clips):
    clips = _split_by_hash(clips, valid_fraction)
  return sorted((_with_split(clip, clip.split or "train") for clip in clips), key=lambda c: c.id)


def clips_of_split(clips: Sequence[Clip], split: str) -> list[Clip]:
  """Returns the clips of one split.

  Raises:
    DataError: the split has no clips.
  """
  chosen = [clip for clip in clips if clip.split == split]
  if not chosen:
    known = ", ".join(sorted({clip.split for clip in clips}))
    raise DataError(f"no clip has the split {split!r}; the splits are {known}")
  return chosen


def read_clip(clip: Clip, sample_rate: int) -> Float[np.ndarray, " samples"]:
  """Returns a clip as mono float32 samples at `sample_rate` Hz.

  Raises:
    AudioError: the file is missing, empty, truncated, or not audio.
  """
  blocks = audio.read_blocks(clip.path, sample_rate=sample_rate, block_samples=_BLOCK_SAMPLES)
  return np.concatenate(list(blocks))


def read_clip_pcm16(clip: Clip, sample_rate: int) -> Int16[np.ndarray, " samples"]:
  """Returns a clip like `read_clip`, but as 16-bit samples; see `examples.from_pcm16`."""
  blocks = audio.read_blocks(clip.path, sample_rate=sample_rate, block_samples=_BLOCK_SAMPLES)
  return np.concatenate([examples.to_pcm16(block) for block in blocks])


def _clips_of_folder(folder: str, layout: str | None) -> list[Clip]:
  sizes = dict(storage.list_files(folder))
  kinds = AUDIO_SUFFIXES + _UNDECODABLE_SUFFIXES
  audio = [name for name in sizes if name.lower().endswith(kinds)]
  described = layouts.describe(folder, list(sizes), audio, layout)
  return [
    # A file that a corpus lists and the folder lacks is a clip too, and is counted as skipped.
    Clip(name, storage.join(folder, name), split, speaker, size=sizes.get(name))
    for name, (split, speaker) in described.items()
  ]


def _clips_of_manifest(manifest: str) -> list[Clip]:
  clips: dict[str, Clip] = {}
  try:
    lines = storage.read_text(manifest).splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"cannot read the manifest {manifest}: {error}") from error
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    clip = _clip_of_row(line, manifest, number)
    if clip.id in clips:
      raise DataError(f"{manifest}, line {number}: {clip.id} is listed twice; remove one row")
    clips[clip.id] = clip
  return list(clips.values())


def _clip_of_row(line: str, manifest: str, number: int) -> Clip:
  try:
    row = json.loads(line)
    path, seconds = str(row["path"]), row.get("seconds")
    return Clip(
      id=path,
      path=storage.join(storage.parent(manifest), path),
      split=str(row.get("split") or ""),
      speaker=None if row.get("speaker") is None else str(row["speaker"]),
      label=None if row.get("label") is None else str(row["label"]),
      seconds=None if seconds is None else float(seconds),
      text=None if row.get("text") is None else str(row["text"]),
    )
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise DataError(
      f"{manifest}, line {number}: not a JSON object with a path ({type(error).__name__}: {error})"
    ) from error


def _split_by_hash(clips: Iterable[Clip], valid_fraction: float) -> list[Clip]:
  # A hash of the id, not a shuffle, so that adding files does not move files between splits.
  ranked = sorted(clips, key=lambda clip: unit_hash(clip.id))
  valid = sum(unit_hash(clip.id) < valid_fraction for clip in ranked)
  if valid_fraction > 0 and len(ranked) > 1:
    valid = min(max(valid, 1), len(ranked) - 1)
  return [_with_split(c, "valid" if i < valid else "train") for i, c in enumerate(ranked)]


def unit_hash(text: str) -> float:
  """Returns a hash of a text as a number in [0, 1), the same on every machine."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _with_split(clip: Clip, split: str) -> Clip:
  return dataclasses.replace(clip, split=split)
