"""Lists the clips of a folder or manifest with their splits; reads clips; counts skipped clips."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int16

from audiolm_jax.core import plain_json
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.data import examples, layouts
from audiolm_jax.io import audio, storage

AUDIO_SUFFIXES = (
  *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"),
)
# Formats that cannot be decoded are listed too, so that such files are counted as skipped.
_UNDECODABLE_SUFFIXES = (".m4a", ".aac", ".wma")
_BLOCK_SAMPLES = 1 << 20
_LONGEST_ROW = 1 << 20  # bytes
_LONGEST_IN_MESSAGE = 200  # characters
_LONG_SECONDS = 600
_MOST_HASHED, _READ_AT_ONCE = 256, 16  # files
_MICROPHONE = re.compile(r"[._-]mic[._-]?\d+$", re.IGNORECASE)
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AudioClip:
  """One audio file.

  Attributes:
    id: path relative to the folder, or path in the manifest; unique.
    path: path or URL of the file.
    split: "train", "valid", "test" or another name from the manifest.
    speaker: name of the speaker, from the manifest or the layout; None if unknown.
    seconds: duration from the manifest; None if unknown.
    label: class of the audio from the manifest; None if unknown.
    size: size of the file in bytes; None if unknown.
    text: the spoken words, from the manifest or the layout; None if unknown.
    source_path: path or URL of the source recording, from the manifest; None if there is none. The
      clip is a version of the source recording, such as its translation.
  """

  id: str
  path: str
  split: str = "train"
  speaker: str | None = None
  seconds: float | None = None
  label: str | None = None
  size: int | None = None
  text: str | None = None
  source_path: str | None = None


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
      DataError: more than the accepted share of clips was skipped.
    """
    with self._lock:
      self.skipped[clip_id] = reason
    self.check()

  def check(self) -> None:
    """Raises `DataError` if more than the accepted share of clips was skipped."""
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


class Corpus(NamedTuple):
  """The clips of a folder or manifest, and how they were found.

  Attributes:
    clips: the clips, sorted by id.
    layout: layout of the folder, one of `layouts.LAYOUTS`; "manifest" for a manifest.
    left_out: reasons why audio files in the folder are not clips, by path.
  """

  clips: list[AudioClip]
  layout: str
  left_out: dict[str, str]


def list_clips(
  source: str | os.PathLike[str],
  valid_fraction: float = 0.05,
  layout: str | None = None,
  *,
  texts: bool = False,
) -> list[AudioClip]:
  """Returns the clips of a folder or of a manifest, sorted by id; see `read_corpus`.

  Logs a warning if audio files in the folder are not clips.
  """
  corpus = read_corpus(source, valid_fraction, layout, texts=texts)
  if corpus.left_out:
    name, reason = next(iter(corpus.left_out.items()))
    _logger.warning(
      "%s: %d audio files are left out, such as %s (%s)",
      os.fspath(source), len(corpus.left_out), name, reason,
    )  # fmt: skip
  return corpus.clips


def read_corpus(
  source: str | os.PathLike[str],
  valid_fraction: float = 0.05,
  layout: str | None = None,
  *,
  texts: bool = False,
) -> Corpus:
  """Returns the clips of a folder or of a manifest.

  A folder is searched recursively; hidden files are ignored. The layout of the folder defines
  splits and speakers. A manifest is a `.jsonl` file whose rows have `path` (relative to the
  manifest, or absolute) and optionally `split`, `speaker`, `seconds`, `label`, `text` and
  `source_path`.

  If no clip has a split, a hash of the id selects about `valid_fraction` of the recordings for the
  split `valid`. At least one recording is selected if `valid_fraction` is above 0 and the corpus
  has two or more recordings. All files of a recording, such as files of two microphones, are in one
  split. If some clips have a split, the other clips are in `train`.

  Args:
    source: path or URL of a folder or manifest.
    valid_fraction: validation share of a corpus without splits.
    layout: layout of the folder, one of `layouts.LAYOUTS`; None to detect it.
    texts: whether to read the texts of a folder, which can be in many files. The texts of a
      manifest are always read.

  Raises:
    DataError: the source is missing, empty or not a manifest, does not have the layout, has a row
      without `path`, or has the same path twice.
    UserError: a folder cannot be listed, or the store of a URL cannot be reached.
  """
  source = os.fspath(source)
  if source.startswith("tfds:"):
    raise DataError(f"{source} can be read through SeqIO only; name one of its tasks")
  if storage.is_folder(source):
    corpus = _corpus_of_folder(source, layout, texts)
    kinds = " ".join(AUDIO_SUFFIXES)
    if not corpus.clips:
      raise DataError(f"{source} has no audio files ({kinds}); name another folder or a manifest")
  elif storage.exists(source):
    corpus = Corpus(_clips_of_manifest(source), "manifest", {})
    if not corpus.clips:
      raise DataError(f"{source} has no rows; a manifest has one JSON object with a path per line")
  else:
    raise DataError(f"{source} does not exist; name a folder of audio files or a .jsonl manifest")
  clips = corpus.clips
  if not any(clip.split for clip in clips):
    clips = _split_by_hash(clips, valid_fraction)
  clips = [_with_split(clip, clip.split or "train") for clip in clips]
  return corpus._replace(clips=sorted(clips, key=lambda clip: clip.id))


def clips_of_split(clips: Sequence[AudioClip], split: str) -> list[AudioClip]:
  """Returns the clips of one split.

  Raises:
    DataError: the split has no clips.
  """
  chosen = [clip for clip in clips if clip.split == split]
  if not chosen:
    known = ", ".join(sorted({clip.split for clip in clips}))
    raise DataError(
      f"no clip has the split {split!r}; the splits are {known}: give some clips this split in the "
      "manifest, or no clip any, for a split by hash; EVAL_PERIOD=0 trains without evaluation"
    )
  return chosen


def size_of(clip: AudioClip) -> int | None:
  """Returns the size of a clip's file in bytes, from `clip` or the disk; None if unknown."""
  if clip.size is not None or not clip.path or storage.is_url(clip.path):
    return clip.size
  try:
    return os.path.getsize(clip.path)
  except (OSError, ValueError):  # the error when the clip is read contains the reason
    return None


def content_of(clip: AudioClip) -> str | None:
  """Returns the hash of a clip's file, see `storage.content_hash`; None if a file is unreadable.

  For a clip with a source recording, the hash is computed from both files.
  """
  if not clip.path:
    return None
  try:
    content = storage.content_hash(clip.path)
    if clip.source_path is None:
      return content
    both = f"{content} {storage.content_hash(clip.source_path)}"
    return hashlib.sha256(both.encode()).hexdigest()[: len(content)]
  except (OSError, ValueError, UserError):
    return None


def source_of(clip: AudioClip) -> AudioClip | None:
  """Returns the source recording of a clip, as a clip; None if there is none."""
  if clip.source_path is None:
    return None
  return AudioClip(f"the source of {clip.id}", clip.source_path, clip.split)


def read_clip(clip: AudioClip, sample_rate: int) -> Float[np.ndarray, " samples"]:
  """Returns a clip as mono float32 samples at `sample_rate` Hz.

  Raises:
    AudioError, UserError: see `audio.read_audio`.
  """
  blocks = audio.read_blocks(clip.path, sample_rate=sample_rate, block_samples=_BLOCK_SAMPLES)
  return np.concatenate(list(blocks))


def open_clip(
  clip: AudioClip, sample_rate: int
) -> Float[np.ndarray, " samples"] | audio.SlicedAudio:
  """Returns a clip as mono float32 samples at `sample_rate` Hz.

  A clip of up to ten minutes is an array; a longer clip is read in slices when they are needed.

  Raises:
    AudioError, UserError: see `audio.read_audio`.
  """
  pieces: list[np.ndarray] = []
  left = _LONG_SECONDS * sample_rate
  blocks = audio.read_blocks(clip.path, sample_rate=sample_rate, block_samples=_BLOCK_SAMPLES)
  with contextlib.closing(blocks):
    for block in blocks:
      pieces.append(block)
      left -= len(block)
      if left < 0:
        return audio.SlicedAudio(clip.path, sample_rate)
  return np.concatenate(pieces)


def read_clip_pcm16(clip: AudioClip, sample_rate: int) -> Int16[np.ndarray, " samples"]:
  """Returns a clip as mono 16-bit samples at `sample_rate` Hz, see `examples.from_pcm16`.

  Raises:
    AudioError, UserError: see `audio.read_audio`.
  """
  blocks = audio.read_blocks(clip.path, sample_rate=sample_rate, block_samples=_BLOCK_SAMPLES)
  return np.concatenate([examples.to_pcm16(block) for block in blocks])


def _corpus_of_folder(folder: str, layout: str | None, texts: bool) -> Corpus:
  entries, copies = storage.list_files_and_copies(folder)
  sizes = dict(entries)
  kinds = AUDIO_SUFFIXES + _UNDECODABLE_SUFFIXES
  audio = [name for name in sizes if name.lower().endswith(kinds)]
  left_out = {name: f"a link to {copies[name]}" for name in audio if name in copies}
  audio = [name for name in audio if name not in copies]
  found = layouts.describe(folder, list(sizes), audio, layout)
  left_out |= {name: f"not part of the layout {found.layout}" for name in found.left_out}
  spoken = layouts.read_texts(folder, found.layout, list(sizes)) if texts else {}
  clips = [
    # A file that the corpus lists but the folder lacks is a clip too; it is counted as skipped.
    AudioClip(
      name,
      storage.join(folder, name),
      split,
      speaker,
      size=sizes.get(name),
      text=spoken.get(name.rpartition(".")[0]),
    )
    for name, (split, speaker) in found.files.items()
  ]
  return Corpus(clips, found.layout, left_out)


def _clips_of_manifest(manifest: str) -> list[AudioClip]:
  clips: dict[str, AudioClip] = {}
  try:
    lines = storage.read_lines(manifest)
  except OSError as error:
    reason = error.strerror or error
    raise DataError(f"cannot read the manifest {manifest}: {reason}") from error
  except UserError as error:
    raise DataError(f"{error}, with one JSON object per line") from error
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    clip = _clip_of_row(line, manifest, number)
    file = os.path.normpath(clip.path)
    if file in clips:
      raise DataError(
        f"{manifest}, line {number}: {_shortened(clip.id)} is listed twice; remove one row"
      )
    clips[file] = clip
  return list(clips.values())


def _shortened(text: str) -> str:
  """Returns a text in one line, shortened to 200 characters, for an error message."""
  text = " ".join(text.split())
  return text if len(text) <= _LONGEST_IN_MESSAGE else f"{text[:_LONGEST_IN_MESSAGE]}..."


def _clip_of_row(line: str, manifest: str, number: int) -> AudioClip:
  try:
    found = plain_json.parse(line, _LONGEST_ROW)
    if not isinstance(found, dict):
      raise ValueError(f"it is {type(found).__name__}")
    row = cast(JsonDict, found)
    if "path" not in row:
      raise ValueError(f"its fields are {', '.join(map(str, row)) or 'none'}")
    seconds = row.get("seconds")
    if seconds is not None and not 0 <= float(seconds) < math.inf:
      raise ValueError(f"seconds is {seconds}")
    path, split = _text(row, "path") or "", _text(row, "split") or ""
    source, folder = _text(row, "source_path"), storage.parent(manifest)
    return AudioClip(
      id=path,
      path=storage.join(folder, path),
      split=layouts.SPLIT_NAMES.get(split.lower(), split),
      speaker=_text(row, "speaker"),
      label=_text(row, "label"),
      seconds=None if seconds is None else float(seconds),
      text=_text(row, "text"),
      source_path=None if source is None else storage.join(folder, source),
    )
  except (ValueError, TypeError, OverflowError, RecursionError) as error:
    reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    raise DataError(
      f"{manifest}, line {number}: not a JSON object with a path ({_shortened(reason)}, the line "
      f'begins with {line[:40]!r}); a row is {{"path": ...}} with, if known, split, speaker, '
      "seconds, label, text and source_path"
    ) from error


def _text(row: Mapping[str, object], field: str) -> str | None:
  """Returns a field of a manifest row as text; None if the field is missing.

  Raises:
    ValueError: the value is neither a text nor a number; or the field is a path, and the value is
      a number, is empty or has a null character.
  """
  value = row.get(field)
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, (str, int, float)):
    raise ValueError(f"{field} is {type(value).__name__}")
  is_path = field in ("path", "source_path")
  if is_path and not (isinstance(value, str) and value and "\0" not in value):
    raise ValueError(f"{field} is {value!r}")
  return str(value)


def _split_by_hash(clips: Iterable[AudioClip], valid_fraction: float) -> list[AudioClip]:
  # A hash of the id, not a shuffle, so that adding files does not move files between splits.
  recordings: dict[str, list[AudioClip]] = {}
  for clip in sorted(clips, key=lambda clip: clip.id):
    recordings.setdefault(_recording(clip.id), []).append(clip)
  ranked = sorted(recordings.values(), key=lambda clips: unit_hash(clips[0].id))
  valid = sum(unit_hash(clips[0].id) < valid_fraction for clips in ranked)
  if valid_fraction > 0 and len(ranked) > 1:
    valid = min(max(valid, 1), len(ranked) - 1)
  return [
    _with_split(clip, "valid" if index < valid else "train")
    for index, clips in enumerate(ranked)
    for clip in clips
  ]


def _recording(clip_id: str) -> str:
  """Returns an id without its suffix and microphone; it is equal for all files of a recording."""
  folder, _, name = clip_id.rpartition("/")
  return f"{folder}/{_MICROPHONE.sub('', name.rpartition('.')[0] or name)}"


def unit_hash(text: str) -> float:
  """Returns a hash of a text as a number in [0, 1), the same on every machine."""
  return (
    int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
  )


class Fingerprint(NamedTuple):
  """Hashes that identify a corpus in a saved data position.

  Attributes:
    corpus: hash of the names and the lengths or sizes of the clips.
    content: hash of the content of the clips; 0 if unknown.
  """

  corpus: int = 0
  content: int = 0

  def check(self, state: Mapping[str, int]) -> None:
    """Raises `DataError` if a data position was saved with a different corpus.

    Positions of earlier versions lack one or both hashes; missing hashes are not compared.
    """
    for field, what in (("corpus", "names or lengths"), ("content", "content")):
      if state.get(field, getattr(self, field)) != getattr(self, field):
        raise DataError(
          f"the saved data position is of another corpus: its clips have other {what}; resume with "
          "the same corpus, or start a new run"
        )


def hash_of(values: Iterable[object]) -> int:
  """Returns a hash of JSON values as an integer below 2**53, which JSON can store exactly."""
  return int(unit_hash(json.dumps(list(values))) * 2**53)


def content_hash(clips: Sequence[AudioClip]) -> int:
  """Returns a hash of the files of at most 256 evenly spaced clips.

  The limit keeps the computation short. Changes of other clips do not change the hash.
  """
  chosen = clips[:: max(1, -(-len(clips) // _MOST_HASHED))]
  with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
    return hash_of(pool.map(content_of, chosen))


def _with_split(clip: AudioClip, split: str) -> AudioClip:
  return dataclasses.replace(clip, split=split)
