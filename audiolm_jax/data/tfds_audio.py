"""A SeqIO source for TFDS data sets of audio: `tfds:librispeech`, `tfds:ljspeech:1.1.1`, ..."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import manifest
from audiolm_jax.data.layouts import SPLIT_FOLDERS
from audiolm_jax.data.sources import WaveformDataSource
from audiolm_jax.io import audio

PREFIX = "tfds:"
_IDS = ("id", "audio_id", "file_name")
_SPEAKERS = ("speaker_id", "speaker")


class TfdsAudioDataSource(WaveformDataSource):
  """Waveforms of a prepared TFDS data set.

  The first word in the name of a TFDS split determines the split of its clips: `valid` for dev,
  valid and validation, `test` for test, and `train` for all other words. If the data set has only
  training splits and `valid_fraction` is above 0, the end of the last training split becomes
  `valid`. The id of a clip contains its id in the data set, or the number of the clip if the data
  set has no ids.

  Args:
    name: `tfds:` followed by a name for `tfds.builder`.
    sample_rate: sample rate of the waveforms in Hz; audio of other rates is resampled.
    valid_fraction: share of the last training split that becomes `valid`.
    data_dir: folder of the prepared data set; None for the default folder.

  Raises:
    DataError: the data set does not exist, is not prepared, or does not have exactly one audio
      feature with a known sample rate.
  """

  def __init__(
    self,
    name: str,
    *,
    sample_rate: int = 16_000,
    valid_fraction: float = 0.05,
    data_dir: str | None = None,
  ):
    self.sample_rate = sample_rate
    self._builder = _prepared_builder(name.removeprefix(PREFIX), data_dir)
    features: Mapping[str, Any] = self._builder.info.features
    kinds = {k: f for k, f in features.items() if isinstance(f, tfds.features.Audio)}
    if len(kinds) != 1:
      raise DataError(f"{name} has {len(kinds)} audio features; exactly one is needed")
    [(self._audio, feature)] = kinds.items()
    if not feature.sample_rate:
      raise DataError(f"{name} has no sample rate for {self._audio!r}; use the audio files instead")
    self._rate = feature.sample_rate
    self._id = next((key for key in _IDS if key in features), None)
    self._speaker = next((key for key in _SPEAKERS if key in features), None)
    self._instructions = _splits(self._builder, valid_fraction)
    super().__init__(splits=sorted(self._instructions))

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """Whether any number of shards is possible: True."""
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the names of the shards, for `seqio_cache_tasks`."""
    count = min(self.num_clips(split), 256)
    return [f"{split}-{i:05d}-of-{count:05d}" for i in range(count)]

  def num_clips(self, split: str) -> int:
    """Returns the number of clips of a split."""
    return sum(stop - start for _, start, stop in self._instructions[split])

  def skipped_in(self, split: str, shard_info: seqio.ShardInfo) -> Mapping[str, str]:
    """Returns an empty mapping, because TFDS decodes audio when it prepares a data set."""
    return {}

  def fingerprint(self, split: str) -> manifest.Fingerprint:
    """Returns a hash of version and clip ranges, and a hash of the TFDS splits' sizes in bytes."""
    info = self._builder.info
    parts = [part for part, _, _ in self._instructions.get(split, [])]
    return manifest.Fingerprint(
      manifest.hash_of([info.full_name, *self._instructions.get(split, [])]),
      manifest.hash_of([info.splits[part].num_bytes for part in parts]),
    )

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **_: object,
  ) -> tf.data.Dataset:
    """Returns the clips of one split, or of one shard, which is a range of consecutive clips."""
    dataset = None
    for part, start, stop in self._stretch(split, shard_info):
      piece = self._builder.as_dataset(split=f"{part}[{start}:{stop}]", shuffle_files=False)
      numbers = tf.data.Dataset.range(start, stop)
      piece = tf.data.Dataset.zip(numbers, piece).map(lambda i, e, part=part: self._row(part, i, e))
      dataset = piece if dataset is None else dataset.concatenate(piece)
    if dataset is None:
      return tf.data.Dataset.from_generator(lambda: iter(()), output_signature=_SIGNATURE)
    if shuffle:
      # The buffer shuffles only neighboring clips, because TFDS reads in order.
      dataset = dataset.shuffle(min(1024, self.num_clips(split)), seed=seed)
    return dataset

  def _stretch(self, split: str, shard_info: seqio.ShardInfo | None) -> list[tuple[str, int, int]]:
    """Returns the clip ranges of a shard: TFDS split, first clip and end (excluded)."""
    index, count = (0, 1) if shard_info is None else (shard_info.index, shard_info.num_shards)
    total = self.num_clips(split)
    first, last = index * total // count, (index + 1) * total // count
    found, before = [], 0
    for part, start, stop in self._instructions[split]:
      low = start + max(0, first - before)
      high = start + min(stop - start, last - before)
      before += stop - start
      if low < high:
        found.append((part, low, high))
    return found

  def _row(
    self, part: str, number: tf.Tensor, example: Mapping[str, tf.Tensor]
  ) -> dict[str, tf.Tensor]:
    waveform = tf.numpy_function(self._waveform, [example[self._audio]], tf.float32)
    own = tf.strings.as_string(number) if self._id is None else _text(example[self._id])
    speaker = tf.constant("") if self._speaker is None else _text(example[self._speaker])
    return {
      "id": tf.strings.join([f"{self._builder.name}/{part}/", own]),
      "speaker": speaker,
      "waveform": tf.ensure_shape(waveform, [None]),
    }

  def _waveform(self, samples: np.ndarray) -> np.ndarray:
    # TFDS stores 16-bit samples in integers of any width.
    if np.issubdtype(samples.dtype, np.integer):
      samples = samples.astype(np.float32) / np.float32(32768)
    if samples.ndim > 1:
      samples = samples.mean(axis=-1, dtype=np.float32)
    return audio.resample(audio.as_waveform(samples), self._rate, self.sample_rate)


_SIGNATURE = {
  "id": tf.TensorSpec([], tf.string),
  "speaker": tf.TensorSpec([], tf.string),
  "waveform": tf.TensorSpec([None], tf.float32),
}


def _prepared_builder(name: str, data_dir: str | None) -> Any:
  data_dir = seqio.LazyTfdsLoader(data_dir=data_dir).data_dir  # or the folder of --tfds_data_dir
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
    reason = str(error).splitlines()[0]
    raise DataError(f"TFDS has no data set {name!r} ({reason}); see tfds.list_builders") from error
  if not builder.info.splits:
    raise DataError(
      f"the TFDS data set {name} is not prepared in {builder.data_dir}; run: tfds build {name}, or "
      "name its place with TFDS_DATA_DIR"
    )
  return builder


def _splits(builder: Any, valid_fraction: float) -> dict[str, list[tuple[str, int, int]]]:
  """Returns the clip ranges of each split: TFDS split, first clip and end (excluded)."""
  joined: dict[str, list[tuple[str, int, int]]] = {}
  for name, info in sorted(builder.info.splits.items()):
    ours = SPLIT_FOLDERS.get(re.split(r"[-_]", name)[0], "train")
    joined.setdefault(ours, []).append((name, 0, info.num_examples))
  if set(joined) == {"train"} and valid_fraction > 0:
    name, start, stop = joined["train"].pop()
    cut = stop - max(1, round(valid_fraction * (stop - start)))
    joined["train"].append((name, start, cut))
    joined["valid"] = [(name, cut, stop)]
  return joined


def _text(value: tf.Tensor) -> tf.Tensor:
  return value if value.dtype == tf.string else tf.strings.as_string(value)
