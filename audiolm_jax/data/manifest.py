"""Which clips there are: a folder or a manifest, its splits, and what had to be skipped."""

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
# Sound that cannot be decoded: listed, so that it is counted as skipped and not passed over.
_UNDECODABLE_SUFFIXES = (".m4a", ".aac", ".wma")
_BLOCK_SAMPLES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Clip:
  """One audio file.

  Attributes:
    id: path relative to the folder or manifest; unique.
    path: where the file is.
    split: "train", "valid" or whatever the manifest says.
    speaker: as in the manifest, or None where nobody says.
    seconds: length as in the manifest, or None.
    label: what kind of sound it is, as in the manifest, or None.
    size: of the file in bytes, or None where it was not looked at.
  """

  id: str
  path: str
  split: str = "train"
  speaker: str | None = None
  seconds: float | None = None
  label: str | None = None
  size: int | None = None


class SkipLog:
  """The clips that could not be used and why; ends the run when they are too many.

  Args:
    total: clips there should be.
    max_skipped_fraction: share of them that may be skipped.
  """

  def __init__(self, total: int, max_skipped_fraction: float = 0.01):
    self.total = total
    self.max_skipped_fraction = max_skipped_fraction
    self.skipped: dict[str, str] = {}
    self._lock = threading.Lock()

  def skip(self, clip_id: str, reason: str) -> None:
    """Counts one clip.

    Raises:
      DataError: more than the allowed share has been skipped.
    """
    with self._lock:
      self.skipped[clip_id] = reason
    self.check()

  def check(self) -> None:
    """Raises `DataError` where more than the allowed share has been skipped."""
    with self._lock:
      too_many = len(self.skipped) > self.max_skipped_fraction * self.total
    if too_many:
      raise DataError(
        f"{self.report()}; more than max_skipped_fraction={self.max_skipped_fraction:g}: mend or "
        "remove these files, or raise it (in gin: MAX_SKIPPED_FRACTION)"
      )

  def report(self) -> str:
    """One line: how many were skipped, the first few with their reasons."""
    if not self.skipped:
      return f"all {self.total} clips are usable"
    shown = [f"{name} ({reason})" for name, reason in list(self.skipped.items())[:3]]
    more = len(self.skipped) - len(shown)
    tail = f" and {more} more" if more else ""
    return f"{len(self.skipped)} of {self.total} clips skipped: {', '.join(shown)}{tail}"


def list_clips(
  source: str | os.PathLike[str], valid_fraction: float = 0.05, layout: str | None = None
) -> list[Clip]:
  """The clips of a folder (searched through) or of a manifest, sorted by id; URLs will do.

  A manifest is a `.jsonl` file whose rows have `path` (relative to the manifest, or absolute) and
  may have `split`, `speaker`, `seconds` and `label`. A folder's splits and speakers follow from its
  layout, which is found out where `layout` does not name one of `layouts.LAYOUTS`. Where nobody
  names splits, about `valid_fraction` of the files, chosen by a hash of the id, are `valid`, at
  least one where there are two. Hidden files are passed over.

  Raises:
    DataError: nothing there, another layout, not a manifest, a row without `path`, the same path
      twice.
  """
  source = os.fspath(source)
  if source.startswith("tfds:"):
    raise DataError(f"{source} is read through SeqIO only; name one of its tasks")
  if storage.is_folder(source):
    clips = _clips_of_folder(source, layout)
    kinds = " ".join(AUDIO_SUFFIXES)
    if not clips:
      raise DataError(f"{source} holds no audio files ({kinds}); name another folder or a manifest")
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
  """Those of one split.

  Raises:
    DataError: there are none.
  """
  chosen = [clip for clip in clips if clip.split == split]
  if not chosen:
    there = ", ".join(sorted({clip.split for clip in clips}))
    raise DataError(f"no clip has the split {split!r}; the splits are {there}")
  return chosen


def read_clip(clip: Clip, sample_rate: int) -> Float[np.ndarray, " samples"]:
  """The clip, mono at `sample_rate` Hz, float32.

  Raises:
    AudioError: missing, empty, cut short, not audio.
  """
  blocks = audio.read_blocks(clip.path, sample_rate=sample_rate, block_samples=_BLOCK_SAMPLES)
  return np.concatenate(list(blocks))


def read_clip_pcm16(clip: Clip, sample_rate: int) -> Int16[np.ndarray, " samples"]:
  """The same in 16-bit samples; `examples.from_pcm16` makes a waveform of them."""
  blocks = audio.read_blocks(clip.path, sample_rate=sample_rate, block_samples=_BLOCK_SAMPLES)
  return np.concatenate([examples.to_pcm16(block) for block in blocks])


def _clips_of_folder(folder: str, layout: str | None) -> list[Clip]:
  sizes = dict(storage.list_files(folder))
  kinds = AUDIO_SUFFIXES + _UNDECODABLE_SUFFIXES
  audio = [name for name in sizes if name.lower().endswith(kinds)]
  described = layouts.describe(folder, list(sizes), audio, layout)
  return [
    # What a corpus lists and the folder lacks is a clip too: it is counted as skipped.
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
      raise DataError(f"{manifest}, line {number}: {clip.id} is there twice; remove one row")
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
    )
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise DataError(
      f"{manifest}, line {number}: not a JSON object with a path ({type(error).__name__}: {error})"
    ) from error


def _split_by_hash(clips: Iterable[Clip], valid_fraction: float) -> list[Clip]:
  # A hash of the id, not a shuffle: adding files later moves no old file to the other split.
  ranked = sorted(clips, key=lambda clip: unit_hash(clip.id))
  valid = sum(unit_hash(clip.id) < valid_fraction for clip in ranked)
  if valid_fraction > 0 and len(ranked) > 1:
    valid = min(max(valid, 1), len(ranked) - 1)
  return [_with_split(c, "valid" if i < valid else "train") for i, c in enumerate(ranked)]


def unit_hash(text: str) -> float:
  """A number in [0, 1) that stands for a text, the same on every machine."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _with_split(clip: Clip, split: str) -> Clip:
  return dataclasses.replace(clip, split=split)
