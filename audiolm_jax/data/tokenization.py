"""Tokenizes audio into token stores: single shards, and whole corpora in this process.

`beam_tokenization` uses the same functions, except for the loop over shards. The loop in this
module does not need Beam, shows a progress bar, and stops when too many clips are unreadable.
"""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import tqdm

from audiolm_jax.codec.interface import EncodesClips
from audiolm_jax.core import configs
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import (
  CODES,
  SEMANTIC,
  SOURCE_SEMANTIC,
  TEXT,
  Stream,
  of_tokenizers,
)
from audiolm_jax.data import manifest, token_shards, token_store
from audiolm_jax.data.audio_shards import (
  DecodedClip,
  FailedClip,
  Shard,
  Waveform,
  shards_of_clips,
)
from audiolm_jax.data.manifest import AudioClip
from audiolm_jax.data.outdated_clips import Outdated
from audiolm_jax.lm import text as texts

if TYPE_CHECKING:
  from audiolm_jax.bundles.bundle import Bundle

SECONDS_PER_SHARD = 1800.0
TOKENIZED = (SEMANTIC, CODES)  # keys of the streams that tokenizers produce
_SECONDS_TOGETHER = 300.0  # of audio that is tokenized at a time
_LONG_SECONDS = 60.0  # longer clips are not batched, because that only uses more memory


class Tokenized(NamedTuple):
  """The result of `tokenize_corpus`.

  Attributes:
    info: description of the whole store.
    seconds_of_audio: seconds of audio that this call tokenized.
    seconds: duration of the call.
    changed: number of clips that were tokenized again, because their files had changed.
    removed: number of clips that were dropped, because they were not in the corpus any more.
  """

  info: token_store.StoreInfo
  seconds_of_audio: float
  seconds: float
  changed: int = 0
  removed: int = 0


class Missing(NamedTuple):
  """The clips of a corpus that a store lacks, and the clips that were dropped from the store."""

  clips: list[AudioClip]
  dropped: Outdated


class ShardTokens(NamedTuple):
  """The tokenized clips of a shard, and the reason for each skipped clip, by clip id."""

  clips: list[token_shards.TokenClip]
  skipped: dict[str, str]


def tokenize_corpus(
  tokenizers: "Bundle",
  source: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  *,
  streams: Collection[str] = TOKENIZED,
  layout: str | None = None,
  valid_fraction: float = 0.05,
  max_skipped_fraction: float = 0.01,
  clips_per_shard: int = 128,
  batch_size: int | None = None,
  num_workers: int = 2,
  replace_changed: bool = False,
  progress: bool = True,
) -> Tokenized:
  """Tokenizes the clips of a folder or manifest that are not yet in the store at `output_dir`.

  Args:
    tokenizers: the bundle whose `codec` and `semantic` compute the tokens.
    source: folder or manifest, see `manifest.list_clips`.
    output_dir: folder of the store, which is new or has tokens of the same tokenizers.
    streams: keys of the streams to store, some or all of `TOKENIZED`. Codes take most of the time
      and storage, and a semantic stage does not read codes. If semantic tokens are stored, the
      semantic tokens of source recordings are stored too.
    layout: layout of a folder, see `manifest.list_clips`.
    valid_fraction: validation share of a corpus without splits.
    max_skipped_fraction: largest accepted share of unreadable clips.
    clips_per_shard: largest number of clips per file; a file also ends with the clip that reaches
      half an hour of audio, or earlier. A killed run loses only its unfinished file.
    batch_size: number of clips of similar length per batch; the default is 1 on a CPU, where larger
      batches are not faster, and 8 on other devices.
    num_workers: number of batches that are tokenized in parallel, and number of files that are
      read in advance.
    replace_changed: True to tokenize clips again if their files have changed, and to drop clips
      that are not in the corpus any more; False to raise an error for such clips.
    progress: whether to show a progress bar.

  Raises:
    DataError: the corpus has no clips or too many unreadable clips; or the store has tokens of
      other tokenizers, other streams, or clips whose files have changed or were removed.
  """
  began = time.monotonic()
  clips = manifest.list_clips(source, valid_fraction, layout, texts=True)
  skipped = manifest.SkipLog(len(clips), max_skipped_fraction)
  writer = open_writer(tokenizers, output_dir, streams, clips_per_shard)
  missing, dropped = missing_clips(writer, clips, replace_changed=replace_changed)
  done = 0.0
  bar = tqdm.tqdm(
    total=len(clips),
    initial=len(clips) - len(missing),
    unit="clip",
    disable=not progress,
    mininterval=0.1 if sys.stderr.isatty() else 15.0,  # seconds; fewer lines in a log file
  )

  def count(clips: int, seconds: float) -> None:
    nonlocal done
    done += seconds
    bar.set_postfix_str(f"{done / (time.monotonic() - began):.0f}x real time", refresh=False)
    bar.update(clips)

  with bar:
    for shard in shards_of_clips(missing, clips_per_shard, SECONDS_PER_SHARD):
      tokens = tokenize_shard(
        tokenizers,
        shard,
        streams=streams,
        batch_size=batch_size,
        num_workers=num_workers,
        count=count,
      )
      for clip in tokens.clips:
        writer.add(clip)
      writer.flush()
      for clip_id, reason in tokens.skipped.items():
        writer.skip(clip_id, reason)
        skipped.skip(clip_id, reason)
  check_skipped(writer.info, max_skipped_fraction)
  info = writer.finish()
  return Tokenized(info, done, time.monotonic() - began, *count_dropped(dropped, info))


def open_writer(
  tokenizers: "Bundle",
  output_dir: str | os.PathLike[str],
  streams: Collection[str] = TOKENIZED,
  clips_per_shard: int = 128,
) -> token_store.TokenStoreWriter:
  """Returns a writer that creates or resumes the store of these tokenizers.

  Args:
    tokenizers: see `tokenize_corpus`.
    output_dir: folder of the store.
    streams: keys of the streams in the store.
    clips_per_shard: largest number of clips per file.

  Raises:
    DataError: the store has tokens of other tokenizers, or other streams.
  """
  writer = token_store.TokenStoreWriter(
    output_dir,
    tokenizers.token_hash,
    streams=[stream for key, stream in streams_of(tokenizers).items() if key in streams],
    clips_per_shard=clips_per_shard,
    seconds_per_shard=SECONDS_PER_SHARD,
  )
  stored = {key for key in writer.info.streams if key in TOKENIZED}
  if stored != set(streams):
    raise DataError(
      f"the tokens in {writer.folder} are {_joined(stored)}, not {_joined(streams)}; "
      "choose another --output_dir"
    )
  return writer


def _joined(keys: Collection[str]) -> str:
  return " and ".join(sorted(keys))


def missing_clips(
  writer: token_store.TokenStoreWriter, clips: Sequence[AudioClip], *, replace_changed: bool = False
) -> Missing:
  """Returns the clips that are not in a store, and marks the store as unfinished.

  Args:
    writer: writer of the store.
    clips: all clips of the corpus.
    replace_changed: whether to drop outdated clips from the store: clips that were removed from the
      corpus or whose files have changed.

  Raises:
    DataError: the store has outdated clips, and `replace_changed` is False.
  """
  by_id = {clip.id: clip for clip in clips}
  outdated = writer.find_outdated(
    {clip.id: manifest.size_of(clip) for clip in clips},
    lambda clip_id: manifest.content_of(by_id[clip_id]),
  )
  if replace_changed:
    writer.drop([*outdated.changed, *outdated.removed])
  else:
    outdated.check(writer.folder)
  writer.save()
  return Missing([clip for clip in clips if clip.id not in writer], outdated)


def count_dropped(dropped: Outdated, info: token_store.StoreInfo) -> tuple[int, int]:
  """Returns the number of changed clips that were tokenized, and the number of removed clips."""
  return sum(clip_id not in info.skipped for clip_id in dropped.changed), len(dropped.removed)


def streams_of(tokenizers: "Bundle") -> dict[str, Stream]:
  """Returns the streams that a bundle's tokenizers produce, by key."""
  return of_tokenizers(
    *(configs.to_dict(part.spec) for part in (tokenizers.codec, tokenizers.semantic))
  )


def check_skipped(info: token_store.StoreInfo, max_skipped_fraction: float) -> None:
  """Raises `DataError` if too many clips, or all clips, were skipped."""
  log = manifest.SkipLog(sum(info.clips.values()) + len(info.skipped), max_skipped_fraction)
  log.skipped.update(info.skipped)
  log.check()
  if not info.clips:
    raise DataError(f"no clip can be read: {log.report()}")


def tokenize_shard(
  tokenizers: "Bundle",
  shard: Shard,
  *,
  streams: Collection[str] = TOKENIZED,
  batch_size: int | None = None,
  num_workers: int = 2,
  count: Callable[[int, float], None] = lambda clips, seconds: None,
) -> ShardTokens:
  """Returns the tokens of all clips in a shard.

  Batches do not change the tokens of a clip, except if rounding errors decide between two equally
  near codes. The memory contains about five minutes of audio, or `num_workers` clips if they are
  longer, and `num_workers` clips that are read in advance.

  Args:
    tokenizers: see `tokenize_corpus`.
    shard: the clips to tokenize.
    streams: keys of the streams to compute, see `tokenize_corpus`.
    batch_size: number of clips per batch, see `tokenize_corpus`.
    num_workers: number of batches that are tokenized in parallel, and number of clips that are
      read in advance.
    count: function that receives the number of newly finished clips and their seconds of audio.
  """
  rows = batch_size or (1 if jax.default_backend() == "cpu" else 8)
  sample_rate = tokenizers.codec.spec.sample_rate
  clips: dict[str, token_shards.TokenClip] = {}
  order: list[str] = []
  skipped: dict[str, str] = {}
  waiting: list[DecodedClip] = []

  def tokenize(pool: ThreadPoolExecutor) -> None:
    alike = sorted(waiting, key=lambda decoded: len(decoded.waveform))
    size = max(rows, -(-len(alike) // (4 * num_workers)))
    parts = [alike[i : i + size] for i in range(0, len(alike), size)]
    compute = functools.partial(_tokenize_decoded, tokenizers, batch_size=rows, streams=streams)
    for tokens in pool.map(compute, parts[::-1]):
      clips.update((clip.id, clip) for clip in tokens)
      count(len(tokens), sum(clip.seconds for clip in tokens))
    order.extend(decoded.clip.id for decoded in waiting)
    waiting.clear()

  with ThreadPoolExecutor(num_workers) as pool:
    for decoded in shard.read(sample_rate, num_workers, sources=SEMANTIC in streams):
      if isinstance(decoded, FailedClip):
        skipped[decoded.clip.id] = decoded.reason
        count(1, 0.0)
        continue
      waiting.append(decoded)
      read = [part for one in waiting for part in (one.waveform, one.source) if part is not None]
      enough = sum(map(len, read)) >= _SECONDS_TOGETHER * sample_rate
      if enough and len(waiting) >= num_workers:
        tokenize(pool)
    tokenize(pool)
  return ShardTokens(_completed([clips[clip_id] for clip_id in order]), skipped)


def _completed(clips: list[token_shards.TokenClip]) -> list[token_shards.TokenClip]:
  """Returns the clips of a shard with equal stream keys in all clips.

  Clips without a text or a source recording get an empty stream if another clip has the stream.
  """
  empty = {
    key: np.zeros(0, np.int32)
    for key in (TEXT.key, SOURCE_SEMANTIC)
    if any(key in clip.streams for clip in clips)
  }
  return [dataclasses.replace(clip, streams=empty | dict(clip.streams)) for clip in clips]


def _tokenize_decoded(
  tokenizers: "Bundle",
  decoded: Sequence[DecodedClip],
  batch_size: int,
  streams: Collection[str] = TOKENIZED,
) -> list[token_shards.TokenClip]:
  codec = tokenizers.codec
  sample_rate = codec.spec.sample_rate
  waveforms = [one.waveform for one in decoded]
  tokens: dict[str, Sequence[np.ndarray]] = {}
  sources: dict[str, np.ndarray] = {}  # semantic tokens of the sources, by clip id
  if SEMANTIC in streams:
    pairs = {one.clip.id: one.source for one in decoded if one.source is not None}
    found = _in_batches(
      [*waveforms, *pairs.values()],
      tokenizers.semantic.tokenize_long,
      tokenizers.semantic.tokenize_clips,
      batch_size,
      sample_rate,
    )
    tokens[SEMANTIC] = found[: len(waveforms)]
    sources = dict(zip(pairs, found[len(waveforms) :], strict=True))
  if CODES in streams:
    tokens[CODES] = _in_batches(
      waveforms,
      codec.encode_long,
      codec.encode_clips if isinstance(codec, EncodesClips) else None,
      batch_size,
      sample_rate,
    )
  return [
    token_shards.TokenClip(
      id=clip.id,
      streams={
        **{key: of_clips[row] for key, of_clips in tokens.items()},
        **({TEXT.key: texts.code_points(clip.text)} if clip.text else {}),
        **({SOURCE_SEMANTIC: sources[clip.id]} if clip.id in sources else {}),
      },
      split=clip.split,
      speaker=clip.speaker,
      seconds=len(waveform) / sample_rate,
      size=manifest.size_of(clip),
      content=manifest.content_of(clip),
    )
    for row, (clip, waveform, _) in enumerate(decoded)
  ]


def _in_batches(
  waveforms: Sequence[Waveform],
  alone: Callable[[Waveform], np.ndarray],
  together: Callable[[Sequence[np.ndarray], int], Sequence[np.ndarray]] | None,
  batch_size: int,
  sample_rate: int,
) -> list[np.ndarray]:
  """Returns the tokens of each waveform; short waveforms are tokenized in batches, if possible.

  Args:
    waveforms: waveforms [samples] of any lengths at `sample_rate`.
    alone: function that tokenizes one waveform.
    together: function that tokenizes waveforms in batches of a given size; None for codecs without
      batches.
    batch_size: waveforms per batch.
    sample_rate: sample rate in Hz.
  """
  short: list[int] = []
  if batch_size > 1 and together is not None:
    short = [i for i, w in enumerate(waveforms) if len(w) <= _LONG_SECONDS * sample_rate]
  batched: Sequence[np.ndarray] = []
  if short and together:
    batched = together([np.asarray(waveforms[i]) for i in short], batch_size)
  tokens = dict(zip(short, batched, strict=True))
  return [np.asarray(tokens[i] if i in tokens else alone(w)) for i, w in enumerate(waveforms)]
