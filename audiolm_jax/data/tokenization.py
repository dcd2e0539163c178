"""Audio to token stores: a shard at a time, and a whole corpus in this process.

The local engine stays beside the one in `beam_tokenization`, which shares all of this but the loop:
it needs no Beam, shows a bar and stops at the first shard with too many unreadable clips.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from audiolm_jax.core import configs
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import CODES, SEMANTIC, Stream, of_tokenizers
from audiolm_jax.data import manifest, token_shards, token_store
from audiolm_jax.data.audio_shards import Heard, Shard, Unheard, shards_of_clips
from audiolm_jax.data.manifest import Clip

SECONDS_PER_SHARD = 1800.0
_SECONDS_TOGETHER = 300.0  # of audio in memory at a time, beside what is being read
_LONG_SECONDS = 60.0  # clips past this go alone: side by side they would only take memory


class Tokenized(NamedTuple):
  """What `tokenize_corpus` did.

  Attributes:
    info: of the whole store.
    seconds_of_audio: tokenized by this call; what was there before does not count.
    seconds: it took.
  """

  info: token_store.StoreInfo
  seconds_of_audio: float
  seconds: float


class ShardTokens(NamedTuple):
  """The clips of a shard that have tokens, and the ids of the others with the reason."""

  clips: list[token_shards.TokenClip]
  skipped: dict[str, str]


def tokenize_corpus(
  tokenizers: Any,
  source: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  *,
  layout: str | None = None,
  valid_fraction: float = 0.05,
  max_skipped_fraction: float = 0.01,
  clips_per_shard: int = 128,
  batch_size: int | None = None,
  num_workers: int = 2,
  progress: bool = True,
) -> Tokenized:
  """Tokenizes every clip of a folder or manifest that is not yet in the store at `output_dir`.

  Args:
    tokenizers: a bundle, or anything with its `codec`, `semantic` and `token_hash`.
    source: folder or manifest, see `manifest.list_clips`.
    output_dir: of the store; one begun by the same tokenizers is gone on with.
    layout: of a folder, see `manifest.list_clips`.
    valid_fraction: of a corpus that has no splits of its own.
    max_skipped_fraction: share of unreadable clips past which to give up.
    clips_per_shard: what a kill may cost, in clips; about half an hour of audio at most.
    batch_size: clips of like length that go through the models side by side; None for 1 on a CPU,
      which gains nothing from more, and 8 elsewhere.
    num_workers: batches tokenized at a time, and files read ahead.
    progress: whether to show a bar.
  Raises:
    DataError: no clips, too many unreadable ones, or a store of other tokenizers.
  """
  began = time.monotonic()
  clips = manifest.list_clips(source, valid_fraction, layout)
  skipped = manifest.SkipLog(len(clips), max_skipped_fraction)
  writer = open_writer(tokenizers, output_dir, clips_per_shard)
  missing = [clip for clip in clips if clip.id not in writer]
  heard = 0.0
  bar = tqdm.tqdm(
    total=len(clips),
    initial=len(clips) - len(missing),
    unit="clip",
    disable=not progress,
    mininterval=0.1 if sys.stderr.isatty() else 15.0,  # seconds; a log needs fewer lines
  )

  def count(clips: int, seconds: float) -> None:
    nonlocal heard
    heard += seconds
    bar.set_postfix_str(f"{heard / (time.monotonic() - began):.0f}x real time", refresh=False)
    bar.update(clips)

  with bar:
    for shard in shards_of_clips(missing, clips_per_shard, SECONDS_PER_SHARD):
      tokens = tokenize_shard(
        tokenizers, shard, batch_size=batch_size, num_workers=num_workers, count=count
      )
      for clip in tokens.clips:
        writer.add(clip)
      writer.flush()
      for clip_id, reason in tokens.skipped.items():
        writer.skip(clip_id, reason)
        skipped.skip(clip_id, reason)
  check_skipped(writer.info, max_skipped_fraction)
  return Tokenized(writer.finish(), heard, time.monotonic() - began)


def open_writer(
  tokenizers: Any, output_dir: str | os.PathLike[str], clips_per_shard: int = 128
) -> token_store.TokenStoreWriter:
  """A writer of the store of these tokenizers, begun or gone on with."""
  return token_store.TokenStoreWriter(
    output_dir,
    tokenizers.token_hash,
    streams=streams_of(tokenizers).values(),
    clips_per_shard=clips_per_shard,
    seconds_per_shard=SECONDS_PER_SHARD,
  )


def streams_of(tokenizers: Any) -> dict[str, Stream]:
  """The streams that a bundle's tokenizers make, by key."""
  return of_tokenizers(
    *(configs.to_dict(part.spec) for part in (tokenizers.codec, tokenizers.semantic))
  )


def check_skipped(info: token_store.StoreInfo, max_skipped_fraction: float) -> None:
  """Refuses a store that lacks too much of its corpus.

  Raises:
    DataError: more than this share of the clips was skipped, or all.
  """
  log = manifest.SkipLog(sum(info.clips.values()) + len(info.skipped), max_skipped_fraction)
  log.skipped.update(info.skipped)
  log.check()
  if not info.clips:
    raise DataError(f"no clip can be read: {log.report()}")


def tokenize_shard(
  tokenizers: Any,
  shard: Shard,
  *,
  batch_size: int | None = None,
  num_workers: int = 2,
  count: Callable[[int, float], None] = lambda clips, seconds: None,
) -> ShardTokens:
  """The tokens of each clip of a shard, those of `tokenize_clip` but for ties within rounding.

  In memory are five minutes of short clips or `num_workers` long ones, and as much read ahead.

  Args:
    batch_size: clips of like length that go through the models side by side; None for 1 on a CPU,
      which gains nothing from more, and 8 elsewhere.
    num_workers: batches tokenized at a time, and files read ahead.
    count: is told of each few clips and seconds of audio that are done.
  """
  rows = batch_size or (1 if jax.default_backend() == "cpu" else 8)
  sample_rate = tokenizers.codec.spec.sample_rate
  clips: dict[str, token_shards.TokenClip] = {}
  order: list[str] = []
  skipped: dict[str, str] = {}
  waiting: list[Heard] = []

  def tokenize(pool: ThreadPoolExecutor) -> None:
    alike = sorted(waiting, key=lambda heard: len(heard.waveform))
    size = max(rows, -(-len(alike) // (4 * num_workers)))
    parts = [alike[i : i + size] for i in range(0, len(alike), size)]
    for tokens in pool.map(lambda part: _tokenize_heard(tokenizers, part, rows), parts[::-1]):
      clips.update((clip.id, clip) for clip in tokens)
      count(len(tokens), sum(clip.seconds for clip in tokens))
    order.extend(heard.clip.id for heard in waiting)
    waiting.clear()

  with ThreadPoolExecutor(num_workers) as pool:
    for heard in shard.read(sample_rate, num_workers):
      if isinstance(heard, Unheard):
        skipped[heard.clip.id] = heard.reason
        count(1, 0.0)
        continue
      waiting.append(heard)
      enough = sum(len(h.waveform) for h in waiting) >= _SECONDS_TOGETHER * sample_rate
      if enough and len(waiting) >= num_workers:
        tokenize(pool)
    tokenize(pool)
  return ShardTokens([clips[clip_id] for clip_id in order], skipped)


def tokenize_clip(tokenizers: Any, clip: Clip) -> token_shards.TokenClip:
  """The tokens of one whole file, in memory bounded by its waveform.

  Raises:
    AudioError: it cannot be read.
  """
  waveform = manifest.read_clip(clip, tokenizers.codec.spec.sample_rate)
  return _tokenize_heard(tokenizers, [Heard(clip, waveform)], 1)[0]


def _tokenize_heard(
  tokenizers: Any, heard: Sequence[Heard], batch_size: int
) -> list[token_shards.TokenClip]:
  sample_rate = tokenizers.codec.spec.sample_rate
  short = [h for h in heard if len(h.waveform) <= _LONG_SECONDS * sample_rate]
  semantic, codes = tokenizers.semantic, tokenizers.codec
  of_short = {}
  # Codecs and encoders that cannot do without padding have no such functions.
  if batch_size > 1 and hasattr(semantic, "tokenize_clips") and hasattr(codes, "encode_clips"):
    waveforms = [waveform for _, waveform in short]
    pairs = zip(
      semantic.tokenize_clips(waveforms, batch_size),
      codes.encode_clips(waveforms, batch_size),
      strict=True,
    )
    of_short = {h.clip.id: pair for h, pair in zip(short, pairs, strict=True)}
  tokens = []
  for clip, waveform in heard:
    pair = of_short.get(clip.id) or (
      semantic.tokenize_long(waveform),
      codes.encode_long(waveform),
    )
    tokens.append(
      token_shards.TokenClip(
        id=clip.id,
        streams={SEMANTIC: np.asarray(pair[0]), CODES: np.asarray(pair[1])},
        split=clip.split,
        speaker=clip.speaker,
        seconds=len(waveform) / sample_rate,
      )
    )
  return tokens
