"""A corpus of audio to a token store, clip by clip, in one process."""

import collections
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tqdm

from audiolm_jax import configs
from audiolm_jax.data import manifest, token_store
from audiolm_jax.data.manifest import Clip
from audiolm_jax.errors import AudioError, DataError

T = TypeVar("T")
R = TypeVar("R")


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


def tokenize_corpus(
  tokenizers: Any,
  source: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  *,
  valid_fraction: float = 0.05,
  max_skipped_fraction: float = 0.01,
  clips_per_shard: int = 128,
  num_workers: int = 2,
  progress: bool = True,
) -> Tokenized:
  """Tokenizes every clip of a folder or manifest that is not yet in the store at `output_dir`.

  Args:
    tokenizers: a bundle, or anything with its `codec`, `semantic` and `token_hash`.
    source: folder or manifest, see `manifest.list_clips`.
    output_dir: of the store; one begun by the same tokenizers is gone on with.
    valid_fraction: of a corpus that has no splits of its own.
    max_skipped_fraction: share of unreadable clips past which to give up.
    clips_per_shard: what a kill may cost, in clips; half an hour of audio at most.
    num_workers: clips read and tokenized at a time.
    progress: whether to show a bar.
  Raises:
    DataError: no clips, too many unreadable ones, or a store of other tokenizers.
  """
  began = time.monotonic()
  clips = manifest.list_clips(source, valid_fraction)
  skipped = manifest.SkipLog(len(clips), max_skipped_fraction)
  writer = token_store.TokenStoreWriter(
    output_dir,
    tokenizers.token_hash,
    codec=configs.to_dict(tokenizers.codec.spec),
    semantic=configs.to_dict(tokenizers.semantic.spec),
    clips_per_shard=clips_per_shard,
  )

  def tokenize(clip: Clip) -> token_store.TokenClip | AudioError:
    try:
      return tokenize_clip(tokenizers, clip)
    except AudioError as error:
      return error

  missing = [clip for clip in clips if clip.id not in writer]
  heard = 0.0
  bar = tqdm.tqdm(
    total=len(clips),
    initial=len(clips) - len(missing),
    unit="clip",
    disable=not progress,
    mininterval=0.1 if sys.stderr.isatty() else 15.0,  # seconds; a log needs fewer lines
  )
  with bar, ThreadPoolExecutor(num_workers) as pool:
    for clip, tokens in _in_order(pool, tokenize, missing, num_workers):
      if isinstance(tokens, AudioError):
        writer.skip(clip.id, str(tokens))
        skipped.skip(clip.id, str(tokens))
      else:
        writer.add(tokens)
        heard += tokens.seconds
      bar.set_postfix_str(f"{heard / (time.monotonic() - began):.0f}x real time", refresh=False)
      bar.update()
  if not writer.info.clips and len(skipped.skipped) == len(clips):
    raise DataError(f"no clip can be read: {skipped.report()}")
  return Tokenized(writer.finish(), heard, time.monotonic() - began)


def tokenize_clip(tokenizers: Any, clip: Clip) -> token_store.TokenClip:
  """The tokens of one whole file, in memory bounded by its waveform.

  Raises:
    AudioError: it cannot be read.
  """
  sample_rate = tokenizers.codec.spec.sample_rate
  waveform = manifest.read_clip(clip, sample_rate)
  return token_store.TokenClip(
    id=clip.id,
    semantic=np.asarray(tokenizers.semantic.tokenize_long(waveform)),
    codes=np.asarray(tokenizers.codec.encode_long(waveform)),
    split=clip.split,
    speaker=clip.speaker,
    seconds=len(waveform) / sample_rate,
  )


def _in_order(
  pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[tuple[T, R]]:
  """Each item with its result, at most `ahead` of them in memory beside the one given."""
  waiting: collections.deque[tuple[T, Future[R]]] = collections.deque()
  try:
    for item in items:
      waiting.append((item, pool.submit(function, item)))
      if len(waiting) > ahead:
        first, future = waiting.popleft()
        yield first, future.result()
    while waiting:
      first, future = waiting.popleft()
      yield first, future.result()
  finally:
    for _, future in waiting:
      future.cancel()
