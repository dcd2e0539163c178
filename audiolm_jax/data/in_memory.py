"""Batches from a corpus that fits in memory, without SeqIO and TensorFlow.

A data position consists of an epoch and an index. A run that restores its position receives the
same batches as an uninterrupted run. The same seed gives the same crops on every machine.
"""

import abc
import enum
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32

from audiolm_jax.core.errors import AudioError, DataError
from audiolm_jax.core.streams import Record
from audiolm_jax.data import examples, manifest, token_shards, token_store
from audiolm_jax.data.examples import Example, Seed
from audiolm_jax.data.frame_labels import NO_LABEL, FrameLabels
from audiolm_jax.lm import text
from audiolm_jax.lm.stage import StageSpec

_UNKNOWN = manifest.Fingerprint()


class EpochUnit(enum.Enum):
  """How often a clip occurs in a training epoch: once, or about once per crop length."""

  CLIP = "clip"
  CROP_LENGTH = "crop_length"  # a clip of n crop lengths occurs n times


class InMemoryBatches(abc.ABC):
  """An iterator over batches of examples; each example is created from an item.

  In training (`num_epochs` is None), an item is one occurrence of a clip, see `EpochUnit`. The
  number of batches is unlimited. Every epoch has a new order of the items and new random crops. A
  batch can contain items of several epochs.

  In evaluation, an item is a fixed crop. There are `num_epochs` passes over all items, always in
  one shuffled order. If the last batch of a pass is not full, its examples are repeated.

  Each process creates only its own rows of the global batches. The global batches do not depend on
  the number of processes.

  Raises:
    DataError: `batch_size` is not a positive multiple of the number of processes.
  """

  def __init__(
    self,
    num_items: int,
    batch_size: int,
    seed: int,
    num_epochs: int | None,
    shard: tuple[int, int] = (0, 1),
    corpus: manifest.Fingerprint = _UNKNOWN,
  ):
    index, count = shard
    if batch_size < 1 or batch_size % count:
      raise DataError(f"batch_size is {batch_size}; it must be a positive multiple of {count}")
    self._rows = range(index * batch_size // count, (index + 1) * batch_size // count)
    self._num_items = num_items
    self._batch_size = batch_size
    self._num_epochs = num_epochs
    self._corpus = corpus
    self._seed, self._epoch, self._index = seed, 0, 0
    self._order: tuple[Seed, np.ndarray] | None = None

  @abc.abstractmethod
  def _example(self, item: int, seed: Seed) -> Example:
    """Returns the example of an item; `seed` determines its random crop."""

  def _filler(self, example: Example) -> Example:
    """Converts a repeated example to a row that fills the last batch of an evaluation pass."""
    return example

  def __iter__(self) -> Iterator[Example]:
    return self

  def __next__(self) -> Example:
    count = self._batch_size
    if self._num_epochs is not None:
      if self._epoch >= self._num_epochs:
        raise StopIteration
      count = min(count, self._num_items - self._index)
    drawn = [self._draw() for _ in range(count)]
    made = [self._example(*drawn[row % count]) for row in self._rows]
    return examples.stack(
      [m if row < count else self._filler(m) for row, m in zip(self._rows, made, strict=True)]
    )

  def get_state(self) -> dict[str, int]:
    """Returns the data position after the last returned batch, with hashes of the corpus."""
    return {
      "epoch": self._epoch,
      "index": self._index,
      "items": self._num_items,
      **self._corpus._asdict(),
    }

  def set_state(self, state: dict[str, int]) -> None:
    """Restores a data position that `get_state` returned; the seed does not change.

    Raises:
      DataError: the position was saved with a different corpus, or the number of items has
        changed with the crop length.
    """
    if state["items"] != self._num_items:
      raise DataError(
        f"the saved data position is in an epoch of {state['items']} crops, this corpus has "
        f"{self._num_items}; resume with the same corpus and crop length, or start a new run"
      )
    self._corpus.check(state)
    self._epoch, self._index = state["epoch"], state["index"]

  def skip_report(self) -> str:
    """Returns a one-line summary of the skipped clips; "" if no clip was skipped."""
    return ""

  def _draw(self) -> tuple[int, Seed]:
    """Returns the next item and the seed of its crop."""
    item = int(self._epoch_order()[self._index])
    # This seed differs from the seeds of all orders, which are (seed, epoch).
    seed = self._seed, (self._epoch + 1) << 32 | self._index
    self._index += 1
    if self._index == self._num_items:
      self._epoch, self._index = self._epoch + 1, 0
    return item, seed

  def _epoch_order(self) -> np.ndarray:
    key = (self._seed, self._epoch if self._num_epochs is None else 0)
    if self._order is None or self._order[0] != key:
      self._order = key, examples.generator(key).permutation(self._num_items)
    return self._order[1]


class InMemoryWaveforms(InMemoryBatches):
  """Batches of crops from an audio corpus, which is decoded once.

  The memory contains the corpus as 16-bit samples: 115 MB per hour at 16 kHz.

  A batch is {"waveform": float32 [batch, samples], "length": int32 [batch]}, where `length` is the
  number of samples before the zero padding. With `labels`, a batch also contains "label": int32
  [batch].

  Args:
    source: a folder or manifest, see `manifest.list_clips`.
    split: split of the corpus.
    crop_seconds: length of each example in seconds.
    batch_size: examples per batch, over all processes.
    seed: random seed of the order and the crops.
    sample_rate: sample rate of the examples in Hz; audio of other rates is resampled.
    num_epochs: None for endless random crops; otherwise the number of passes over consecutive crops
      that cover every clip. The last batch of a pass can repeat some crops.
    gain_db: lowest and highest random gain in dB, in training only; None does not change the level.
    epoch_unit: whether all clips or all seconds have equal weight in training.
    shard: index of this process, and the number of processes.
    valid_fraction: validation share of a corpus without splits.
    max_skipped_fraction: largest accepted share of unreadable clips.
    num_threads: number of threads that decode files.
    labels: possible values of the manifest's field `label`; "label" is the index of the value in
      this tuple. The default is no labels.

  Raises:
    DataError: the corpus or split has no clips or too many unreadable clips, or the label of a clip
      is not in `labels`; see also `InMemoryBatches`.
  """

  def __init__(
    self,
    source: str | os.PathLike[str],
    split: str = "train",
    *,
    crop_seconds: float,
    batch_size: int,
    seed: int = 0,
    sample_rate: int = 16_000,
    num_epochs: int | None = None,
    gain_db: tuple[float, float] | None = None,
    epoch_unit: EpochUnit = EpochUnit.CROP_LENGTH,
    shard: tuple[int, int] = (0, 1),
    valid_fraction: float = 0.05,
    max_skipped_fraction: float = 0.01,
    num_threads: int = 4,
    labels: tuple[str, ...] = (),
  ):
    clips = self._chosen(
      manifest.clips_of_split(manifest.list_clips(source, valid_fraction), split)
    )
    self._labels = _numbered(clips, labels)
    self.skipped = manifest.SkipLog(len(clips), max_skipped_fraction)
    self._pcm = _decode(clips, sample_rate, self.skipped, num_threads)
    self._ids = list(self._pcm)
    self._crop = round(crop_seconds * sample_rate)
    self._gain_db = gain_db
    lengths = [len(pcm) for pcm in self._pcm.values()]
    self.seconds = sum(lengths) / sample_rate
    if num_epochs is None:
      counts = [_occurrences(epoch_unit, n, self._crop) for n in lengths]
    else:
      counts = [-(-n // self._crop) for n in lengths]
    self._items = [
      (clip, i) for clip, count in zip(self._ids, counts, strict=True) for i in range(count)
    ]
    content = manifest.content_hash([clip for clip in clips if clip.id in self._pcm])
    corpus = manifest.Fingerprint(
      manifest.hash_of(zip(self._ids, lengths, strict=True)),
      manifest.hash_of([content, *self._label_numbers()]),
    )
    super().__init__(len(self._items), batch_size, seed, num_epochs, shard, corpus)

  @property
  def clip_ids(self) -> list[str]:
    """The ids of the clips that could be read."""
    return list(self._ids)

  def skip_report(self) -> str:
    """Returns a one-line summary of the clips that could not be read; "" if there are none."""
    return self.skipped.report() if self.skipped.skipped else ""

  def example(self, clip_id: str, seed: Seed) -> Example:
    """Returns an example with a random crop of a clip; `seed` determines the crop and the gain."""
    pcm = self._pcm[clip_id]
    return self._labelled(clip_id, examples.waveform_example(pcm, self._crop, seed, self._gain_db))

  def _example(self, item: int, seed: Seed) -> Example:
    clip_id, window = self._items[item]
    if self._num_epochs is None:
      return self.example(clip_id, seed)
    return self._at(clip_id, window * self._crop, seed)

  def _at(
    self, clip_id: str, start: int, seed: Seed, gain_db: tuple[float, float] | None = None
  ) -> Example:
    """Returns the example whose crop begins at sample `start`; `seed` determines the gain."""
    pcm = self._pcm[clip_id][start : start + self._crop]
    return self._labelled(clip_id, examples.waveform_example(pcm, self._crop, seed, gain_db))

  def _chosen(self, clips: list[manifest.AudioClip]) -> list[manifest.AudioClip]:
    """Returns the clips of the split that are used: all, unless a subclass selects some."""
    return clips

  def _label_numbers(self) -> list[int]:
    """Returns one label index per clip, for the corpus fingerprint; [] for no labels."""
    return [self._labels[clip_id] for clip_id in self._ids if self._labels]

  def _labelled(self, clip_id: str, example: Example) -> Example:
    if self._labels:
      example["label"] = np.asarray(self._labels[clip_id], np.int32)
    return example


class InMemoryFrameLabelBatches(InMemoryWaveforms):
  """Batches of crops from the clips with frame labels.

  In addition to the features of `InMemoryWaveforms`, a batch contains "frame_label": int32 [batch,
  frames], with `NO_LABEL` after the end of a clip. Crops begin at the beginning of a frame.

  With `characters`, a batch also contains "text": int32 [batch, longest_text], the normalised text
  as indices in `characters`, with `NO_LABEL` after its end. Characters that are not in `characters`
  become spaces. A row has no text if the crop is only a part of the clip, or if the clip has no
  text of at most `longest_text` characters.

  Args:
    source: a folder or manifest, see `manifest.list_clips`.
    frame_labels: frame labels of the clips.
    split: split of the corpus.
    characters: the known characters, among them the space; empty for no texts.
    longest_text: maximum number of characters in a text.
    language: language in which numbers become words, see `text.normalized`.
    **settings: other arguments of `InMemoryWaveforms`, except `sample_rate`.

  Raises:
    DataError: no clip of the split has labels; a crop is not a whole number of frames;
      `characters` is not empty, but no clip has a text; see also `InMemoryWaveforms`.
  """

  def __init__(
    self,
    source: str | os.PathLike[str],
    frame_labels: FrameLabels,
    split: str = "train",
    *,
    characters: str = "",
    longest_text: int = 0,
    language: str = text.ENGLISH,
    **settings: Any,
  ):
    self._frame_labels = frame_labels
    self._characters, self._longest_text, self._language = characters, longest_text, language
    self._texts: dict[str, Int32[np.ndarray, "_"]] = {}
    super().__init__(source, split, sample_rate=frame_labels.sample_rate, **settings)
    if self._crop % frame_labels.hop_length:
      raise DataError(
        f"a crop of {self._crop} samples is not a multiple of a frame of "
        f"{frame_labels.hop_length}; change crop_seconds"
      )

  def example(self, clip_id: str, seed: Seed) -> Example:
    """Returns an example with a random crop of a clip; `seed` determines the crop and the gain."""
    hop = self._frame_labels.hop_length
    length = len(self._pcm[clip_id])
    first = examples.crop_start(length // hop, self._crop // hop, seed)
    return self._at(clip_id, first * hop, seed, self._gain_db)

  def _chosen(self, clips: list[manifest.AudioClip]) -> list[manifest.AudioClip]:
    """Returns the clips with frame labels."""
    chosen = [clip for clip in clips if clip.id in self._frame_labels.clips]
    if not chosen:
      raise DataError(
        f"none of the {len(clips)} clips of the split {clips[0].split!r} has labels; label the "
        "corpus that is trained on"
      )
    if self._characters:
      self._texts = {clip.id: self._indices(clip.text) for clip in chosen if clip.text}
      if not self._texts:
        raise DataError(
          f"none of the {len(chosen)} clips has a text; add the field text to the manifest, or "
          "train without characters"
        )
    return chosen

  def _indices(self, written: str) -> Int32[np.ndarray, "_"]:
    """Returns a text as indices in `characters`; unknown characters become spaces."""
    spoken = text.normalized(written, self._language)
    known = "".join(c if c in self._characters else " " for c in spoken)
    return np.array([self._characters.index(c) for c in " ".join(known.split())], np.int32)

  def _label_numbers(self) -> list[int]:
    """Returns checksums of the labels and texts of all clips, for the corpus fingerprint."""
    rows = [self._frame_labels.clips[clip_id] for clip_id in self._ids]
    rows += [self._texts[clip_id] for clip_id in self._ids if clip_id in self._texts]
    return [zlib.crc32(np.ascontiguousarray(row, "<u4").data) for row in rows]

  def _at(
    self, clip_id: str, start: int, seed: Seed, gain_db: tuple[float, float] | None = None
  ) -> Example:
    example, hop = super()._at(clip_id, start, seed, gain_db), self._frame_labels.hop_length
    example["frame_label"] = self._frame_labels.crop(clip_id, start // hop, self._crop // hop)
    if self._characters:
      indices = self._texts.get(clip_id, np.zeros(0, np.int32))
      row = np.full(self._longest_text, NO_LABEL, np.int32)
      if len(self._pcm[clip_id]) <= self._crop and len(indices) <= self._longest_text:
        row[: len(indices)] = indices
      example["text"] = row
    return example


class InMemoryTokenBatches(InMemoryBatches):
  """Batches of crops from a token store for one language-model stage.

  A batch contains the features of the stage with a leading batch axis.

  Args:
    folder: folder of the token store.
    spec: specification of the stage.
    split: split of the corpus.
    batch_size: examples per batch, over all processes.
    seed: random seed of the order and the crops.
    token_hash: hash that the tokenizers must have; None accepts all hashes.
    num_epochs: None for endless random crops; otherwise the number of passes over the crops of
      `examples.token_windows`. If the last batch of a pass is not full, it
      gets additional rows with zero weight.
    epoch_unit: whether all clips or all seconds have equal weight in training.
    shard: index of this process, and the number of processes.

  Raises:
    DataError: the store cannot be read or is unfinished; its tokens do not have the hash
      `token_hash` or do not fit the stage; or the stage can use no clip of the split; see also
      `InMemoryBatches`.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    spec: StageSpec,
    split: str = "train",
    *,
    batch_size: int,
    seed: int = 0,
    token_hash: str | None = None,
    num_epochs: int | None = None,
    epoch_unit: EpochUnit = EpochUnit.CROP_LENGTH,
    shard: tuple[int, int] = (0, 1),
  ):
    store = token_store.TokenStore(folder, token_hash)
    token_store.check_stage(spec, store.info)
    self.info = store.info
    self._spec = spec
    clips = store.clips(split)
    self.skipped = manifest.SkipLog(len(clips), 1.0)
    self._clips = {clip.id: clip for clip in clips if self._is_usable(clip)}
    if not self._clips:
      raise DataError(
        f"no clip of {os.fspath(folder)} can be used for the {spec.name} stage: "
        f"{self.skipped.report()}"
      )
    self._items: list[str] | list[Record]
    if num_epochs is None:
      self._items = [
        clip.id
        for clip in self._clips.values()
        for _ in range(_occurrences(epoch_unit, *examples.token_cells(spec, clip.streams)))
      ]
    else:
      self._items = [
        window
        for clip in self._clips.values()
        for window in examples.token_windows(spec, clip.streams)
      ]
    lengths = ([len(clip.streams[key]) for key in spec.streams] for clip in self._clips.values())
    contents = (token_shards.checksum(clip, spec.streams) for clip in self._clips.values())
    corpus = manifest.Fingerprint(
      manifest.hash_of(zip(self._clips, lengths, strict=True)), manifest.hash_of(contents)
    )
    super().__init__(len(self._items), batch_size, seed, num_epochs, shard, corpus)

  @property
  def clip_ids(self) -> list[str]:
    """The ids of the clips in the split that the stage can use."""
    return list(self._clips)

  def skip_report(self) -> str:
    """Returns a one-line summary of the clips that the stage cannot use; "" if there are none."""
    return self.skipped.report() if self.skipped.skipped else ""

  def _is_usable(self, clip: token_shards.TokenClip) -> bool:
    reason = self._spec.refusal(clip.streams)
    if reason:
      self.skipped.skip(clip.id, reason)
    return not reason

  def example(self, clip_id: str, seed: Seed) -> Example:
    """Returns an example with a random crop of a clip; `seed` determines the crop."""
    return examples.stage_example(self._spec, self._clips[clip_id].streams, seed)

  def _example(self, item: int, seed: Seed) -> Example:
    chosen = self._items[item]
    if isinstance(chosen, str):
      return self.example(chosen, seed)
    return self._spec.example(chosen)

  def _filler(self, example: Example) -> Example:
    return self._spec.filler(example)


def _occurrences(unit: EpochUnit, length: int, crop: int) -> int:
  return 1 if unit is EpochUnit.CLIP else examples.num_crops(length, crop)


def _decode(
  clips: Sequence[manifest.AudioClip], sample_rate: int, skipped: manifest.SkipLog, num_threads: int
) -> dict[str, Int16[np.ndarray, "_"]]:
  """Returns the 16-bit samples of every readable clip by clip id, in the order of `clips`.

  Raises:
    DataError: too many clips, or all clips, cannot be read.
  """

  def read(clip: manifest.AudioClip) -> np.ndarray | None:
    try:
      return manifest.read_clip_pcm16(clip, sample_rate)
    except AudioError as error:
      skipped.skip(clip.id, str(error))
      return None

  with ThreadPoolExecutor(num_threads) as pool:
    try:
      decoded = list(pool.map(read, clips))
    except DataError:
      pool.shutdown(cancel_futures=True)
      raise
  pcm = {clip.id: p for clip, p in zip(clips, decoded, strict=True) if p is not None}
  if not pcm:
    raise DataError(f"no clip can be read: {skipped.report()}")
  return pcm


def _numbered(clips: Sequence[manifest.AudioClip], labels: tuple[str, ...]) -> dict[str, int]:
  """Returns the index of each clip's label in `labels`, by clip id; empty if `labels` is empty.

  Raises:
    DataError: the label of a clip is not in `labels`.
  """
  for clip in clips:
    if labels and clip.label not in labels:
      raise DataError(
        f"{clip.id} has the label {clip.label!r}; each row of the manifest needs a label, one of "
        f"{', '.join(labels)}"
      )
  return {clip.id: labels.index(str(clip.label)) for clip in clips} if labels else {}
