"""SeqIO data sources for a folder or manifest of audio files, and for a token store."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

from audiolm_jax.core.errors import AudioError
from audiolm_jax.data import manifest, token_shards, token_store
from audiolm_jax.data.tensorflow_setup import keep_off_gpu

T = TypeVar("T")

keep_off_gpu()


class WaveformDataSource(seqio.DataSource):
  """A data source of waveforms.

  An example is {"id": string, "speaker": string ("" if unknown), "waveform": float32 [samples]}.

  Attributes:
    sample_rate: sample rate of the waveforms in Hz.
  """

  sample_rate: int

  def num_clips(self, split: str) -> int:
    """Returns the number of clips of a split, including unreadable ones."""
    raise NotImplementedError

  def skipped_in(self, split: str, shard_info: seqio.ShardInfo) -> Mapping[str, str]:
    """Returns why clips of a shard were unreadable, by clip id, after the shard was read."""
    raise NotImplementedError

  def fingerprint(self, split: str) -> manifest.Fingerprint:
    """Returns hashes that identify the clips of a split; an unknown hash is 0."""
    return manifest.Fingerprint()


class AudioDataSource(WaveformDataSource):
  """Waveforms of a folder or manifest, see `manifest.list_clips`.

  Unreadable clips are skipped, counted in `skipped[split]` and logged.

  Args:
    source: folder or manifest.
    sample_rate: sample rate of the waveforms in Hz; audio of other rates is resampled.
    valid_fraction: validation share of a corpus without splits.
    max_skipped_fraction: largest accepted share of unreadable clips in a split; if it is exceeded,
      reading raises a TensorFlow error that wraps a `DataError`.
    max_shards: largest number of shards per split for parallel caching; a shard has at least one
      clip.
  """

  def __init__(
    self,
    source: str | os.PathLike[str],
    *,
    sample_rate: int = 16_000,
    valid_fraction: float = 0.05,
    max_skipped_fraction: float = 0.01,
    max_shards: int = 256,
  ):
    clips = manifest.list_clips(source, valid_fraction)
    splits = sorted({clip.split for clip in clips})
    # With `num_input_examples`, SeqIO would keep all waveforms of a small corpus in memory.
    super().__init__(splits=splits)
    self.sample_rate = sample_rate
    self._clips = {split: manifest.clips_of_split(clips, split) for split in splits}
    self._max_shards = max_shards
    self.skipped = {
      split: manifest.SkipLog(len(of_split), max_skipped_fraction)
      for split, of_split in self._clips.items()
    }

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """Whether any number of shards is possible: True."""
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the names of the shards, for `seqio_cache_tasks`."""
    return _shard_names(split, self.num_clips(split), self._max_shards)

  def num_clips(self, split: str) -> int:
    """Returns the number of clips of a split, including unreadable ones."""
    return len(self._clips[split])

  def fingerprint(self, split: str) -> manifest.Fingerprint:
    """Returns a hash of names and sizes, and a hash of contents, see `manifest.content_hash`."""
    clips = self._clips.get(split, [])
    names = manifest.hash_of((clip.id, clip.size) for clip in clips)
    return manifest.Fingerprint(names, manifest.content_hash(clips))

  def skipped_in(self, split: str, shard_info: seqio.ShardInfo) -> Mapping[str, str]:
    """Returns why clips of a shard were unreadable, by clip id, after the shard was read."""
    skipped = self.skipped[split].skipped
    shard = _of_shard(self._clips[split], shard_info)
    return {clip.id: skipped[clip.id] for clip in shard if clip.id in skipped}

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **_: object,
  ) -> tf.data.Dataset:
    """Returns the readable clips of one split, or of one shard of the split."""
    clips = _of_shard(self._clips[split], shard_info)
    if not clips:
      return tf.data.Dataset.from_generator(lambda: iter(()), output_signature=_WAVEFORM_SIGNATURE)
    dataset = tf.data.Dataset.range(len(clips))
    if shuffle:
      dataset = dataset.shuffle(len(clips), seed=seed)

    def read(index: np.ndarray) -> np.ndarray:
      clip = clips[int(index)]
      try:
        return manifest.read_clip(clip, self.sample_rate)
      except AudioError as error:
        logging.warning("skipped %s: %s", clip.id, error)
        self.skipped[split].skip(clip.id, str(error))
        return np.zeros(0, np.float32)

    ids = tf.constant([_bytes(clip.id) for clip in clips])
    speakers = tf.constant([_bytes(clip.speaker or "") for clip in clips])

    def example(index: tf.Tensor) -> Mapping[str, tf.Tensor]:
      waveform = tf.ensure_shape(tf.numpy_function(read, [index], tf.float32), [None])
      return {"id": ids[index], "speaker": speakers[index], "waveform": waveform}

    dataset = dataset.map(example, num_parallel_calls=2)
    return dataset.filter(lambda example: tf.size(example["waveform"]) > 0)


class TokenStoreDataSource(seqio.DataSource):
  """Token streams of a store that `cache_tokens` wrote.

  An example has the strings "id", "speaker" and "token_hash", and the streams of the clip by key,
  int32 [steps] or [steps, levels].

  Args:
    folder: folder of the store.
    token_hash: hash that the tokenizers must have; None accepts all hashes.

  Attributes:
    info: the content of `store.json`.
    ranks: number of axes of each stream, by key.
  """

  def __init__(self, folder: str | os.PathLike[str], token_hash: str | None = None):
    self._store = token_store.TokenStore(folder, token_hash)
    self.info = self._store.info
    self.ranks = {
      key: tokens.ndim for clip in self._store.clips() for key, tokens in clip.streams.items()
    }
    super().__init__(splits=sorted(self.info.clips), num_input_examples=self.info.clips)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """Whether any number of shards is possible: True."""
    return True

  def fingerprint(self, split: str) -> manifest.Fingerprint:
    """Returns a hash of the names and lengths of the clips, and a hash of their tokens."""
    clips = self._store.clips(split)
    names = manifest.hash_of((clip.id, clip.seconds) for clip in clips)
    return manifest.Fingerprint(names, manifest.hash_of(map(token_shards.checksum, clips)))

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the names of the shards, for `seqio_cache_tasks`."""
    return _shard_names(split, self.info.clips[split], 256)

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **_: object,
  ) -> tf.data.Dataset:
    """Returns the clips of one split, or of one shard of the split."""
    clips = _of_shard(self._store.clips(split), shard_info)

    # Clips of a token shard without texts or without sources lack the stream of these.
    empty = {key: np.zeros(0, np.int32) for key, rank in self.ranks.items() if rank == 1}

    def rows() -> Iterator[Mapping[str, object]]:
      for clip in clips:
        yield {
          "id": _bytes(clip.id),
          "speaker": _bytes(clip.speaker or ""),
          "token_hash": self.info.token_hash,
          **empty,
          **{key: tokens.astype(np.int32) for key, tokens in clip.streams.items()},
        }

    signature = _TEXTS | {
      key: tf.TensorSpec([None] * rank, tf.int32) for key, rank in self.ranks.items()
    }
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    return dataset.shuffle(len(clips), seed=seed) if shuffle and clips else dataset


_TEXTS = {name: tf.TensorSpec([], tf.string) for name in ("id", "speaker", "token_hash")}
_WAVEFORM_SIGNATURE = {
  "id": tf.TensorSpec([], tf.string),
  "speaker": tf.TensorSpec([], tf.string),
  "waveform": tf.TensorSpec([None], tf.float32),
}


def _bytes(text: str) -> bytes:
  """Encodes a text as UTF-8, with surrogates, which represent undecodable bytes of file names."""
  return text.encode(errors="surrogatepass")


def _shard_names(split: str, num_clips: int, max_shards: int) -> list[str]:
  count = min(num_clips, max_shards)
  return [f"{split}-{i:05d}-of-{count:05d}" for i in range(count)]


def _of_shard(clips: Sequence[T], shard_info: seqio.ShardInfo | None) -> Sequence[T]:
  return clips if shard_info is None else clips[shard_info.index :: shard_info.num_shards]
