"""Data sets: objects that return an iterator over batches when they are called.

A run calls a data set once. To create or print a data set is cheap. A batch size counts the rows of
all processes and is a multiple of the number of processes. Each process creates only its own rows.
"""

import dataclasses
import importlib
from collections.abc import Mapping

import jax
import numpy as np

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data import in_memory
from audiolm_jax.data.frame_labels import load_frame_labels
from audiolm_jax.lm.stage import StageSpec
from audiolm_jax.lm.text import ENGLISH
from audiolm_jax.training.batches import Batches

BatchShapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class SeqioDataset:
  """Batches of a SeqIO task or mixture.

  SeqIO and TensorFlow are imported when the object is called.

  Attributes:
    mixture_or_task_name: registered name of the task or mixture.
    task_feature_lengths: {"waveform": number of samples per crop}; None for the examples of a
      stage.
    spec: specification of the stage whose examples the task produces; None for waveforms.
    split: split of the task.
    batch_size: examples per step.
    seed: random seed of the order and the crops.
    use_cached: whether to read the cache that `seqio_cache_tasks` wrote.
    shuffle: whether to shuffle the examples.
    num_epochs: number of passes over the data; None for endless batches.
    module: module to import first, which registers the task; None if gin imports it.

  Raises:
    ConfigError: both or neither of `task_feature_lengths` and `spec` are given, or
      `task_feature_lengths` has other keys than "waveform".
  """

  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int] | None = None
  spec: StageSpec | None = None
  split: str = "train"
  batch_size: int = 128
  seed: int = 0
  use_cached: bool = False
  shuffle: bool = True
  num_epochs: int | None = None
  module: str | None = None

  def __post_init__(self):
    lengths = self.task_feature_lengths
    is_wrong = lengths is not None and set(lengths) != {"waveform"}
    if (self.spec is None) == (lengths is None) or is_wrong:
      raise ConfigError(
        f"TASK_FEATURE_LENGTHS is {lengths}; give {{'waveform': samples}} for codec and semantic "
        "training, and none for a stage, whose specification defines the lengths"
      )

  def batch_shapes(self) -> BatchShapes:
    """Returns the shapes of the global batch, over all processes."""
    if self.spec is not None:
      return _examples(self.batch_size, self.spec)
    return _waveforms(self.batch_size, (self.task_feature_lengths or {})["waveform"])

  def __call__(self) -> Batches:
    """Returns the batches of this process.

    Raises:
      ConfigError: `module` or a module that it imports is not found, or `batch_size` is not a
        multiple of the number of processes.
      DataError: see `SeqioBatches`.
    """
    from audiolm_jax.data.seqio_batches import SeqioBatches

    if self.module:
      try:
        importlib.import_module(self.module)
      except ModuleNotFoundError as error:
        raise ConfigError(f"MIXTURE_OR_TASK_MODULE {self.module!r}: {error}") from error
    return SeqioBatches(
      self.mixture_or_task_name,
      self.task_feature_lengths,
      spec=self.spec,
      split=self.split,
      batch_size=self.batch_size // jax.process_count(),  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
      seed=self.seed,
      use_cached=self.use_cached,
      shuffle=self.shuffle,
      num_epochs=self.num_epochs,
      shard=_shard_here(self.batch_size),
    )


@dataclasses.dataclass(frozen=True)
class InMemoryAudio:
  """Batches of crops from an audio corpus, which is read into memory without SeqIO and TensorFlow.

  Attributes:
    source: folder of audio files or `.jsonl` manifest.
    crop_seconds: length of an example in seconds.
    split: split of the corpus.
    batch_size: examples per step.
    seed: random seed of the order and the crops.
    sample_rate: sample rate of the examples in Hz.
    gain_db: lowest and highest random gain in dB, for training; None does not change the level.
    num_epochs: None for endless random crops, for training; otherwise the number of passes over
      fixed crops, for evaluation.
    max_skipped_fraction: largest accepted share of unreadable clips.
    labels: possible values of the manifest's field `label`. If not empty, examples have a feature
      `label`, the index of the clip's label in this tuple.
  """

  source: str
  crop_seconds: float
  split: str = "train"
  batch_size: int = 32
  seed: int = 0
  sample_rate: int = 16_000
  gain_db: tuple[float, float] | None = None
  num_epochs: int | None = None
  max_skipped_fraction: float = 0.01
  labels: tuple[str, ...] = ()

  def batch_shapes(self) -> BatchShapes:
    """Returns the shapes of the global batch, over all processes."""
    shapes = _waveforms(self.batch_size, round(self.crop_seconds * self.sample_rate))
    if self.labels:
      shapes["label"] = jax.ShapeDtypeStruct((self.batch_size,), np.int32)
    return shapes

  def __call__(self) -> Batches:
    """Returns the batches of this process."""
    return in_memory.InMemoryWaveforms(
      self.source,
      self.split,
      crop_seconds=self.crop_seconds,
      batch_size=self.batch_size,
      seed=self.seed,
      shard=_shard_here(self.batch_size),
      sample_rate=self.sample_rate,
      gain_db=self.gain_db,
      num_epochs=self.num_epochs,
      max_skipped_fraction=self.max_skipped_fraction,
      labels=tuple(self.labels),
    )


@dataclasses.dataclass(frozen=True)
class InMemoryLabelledFrames:
  """Batches of crops from an audio corpus whose frames have labels.

  Attributes:
    source: folder of audio files or `.jsonl` manifest.
    frame_labels: file of labels that launch/make_unit_labels.py wrote for the corpus.
    crop_seconds: length of an example in seconds; it must be a whole number of frames.
    split: split of the corpus.
    batch_size: examples per step.
    seed: random seed of the order and the crops.
    gain_db: lowest and highest random gain in dB, for training; None does not change the level.
    num_epochs: None for endless random crops, for training; otherwise the number of passes over
      fixed crops, for evaluation.
    max_skipped_fraction: largest accepted share of unreadable clips.
    characters: known characters, see `InMemoryFrameLabelBatches`; empty for no texts.
    longest_text: maximum number of characters in a text.
    language: language in which numbers become words, see `text.normalized`.
  """

  source: str
  frame_labels: str
  crop_seconds: float
  split: str = "train"
  batch_size: int = 32
  seed: int = 0
  gain_db: tuple[float, float] | None = None
  num_epochs: int | None = None
  max_skipped_fraction: float = 0.01
  characters: str = ""
  longest_text: int = 0
  language: str = ENGLISH

  def batch_shapes(self) -> BatchShapes:
    """Returns the shapes of the global batch, over all processes."""
    labels = load_frame_labels(self.frame_labels)
    samples = round(self.crop_seconds * labels.sample_rate)
    frames = (self.batch_size, samples // labels.hop_length)
    shapes = _waveforms(self.batch_size, samples) | {
      "frame_label": jax.ShapeDtypeStruct(frames, np.int32)
    }
    if self.characters:
      shapes["text"] = jax.ShapeDtypeStruct((self.batch_size, self.longest_text), np.int32)
    return shapes

  def __call__(self) -> Batches:
    """Returns the batches of this process."""
    return in_memory.InMemoryFrameLabelBatches(
      self.source,
      load_frame_labels(self.frame_labels),
      self.split,
      crop_seconds=self.crop_seconds,
      batch_size=self.batch_size,
      seed=self.seed,
      shard=_shard_here(self.batch_size),
      gain_db=self.gain_db,
      num_epochs=self.num_epochs,
      max_skipped_fraction=self.max_skipped_fraction,
      characters=self.characters,
      longest_text=self.longest_text,
      language=self.language,
    )


@dataclasses.dataclass(frozen=True)
class InMemoryTokens:
  """Batches of crops from a token store for one stage, read without SeqIO and TensorFlow.

  Attributes:
    folder: folder of the token store that `cache_tokens` wrote.
    spec: specification of the stage.
    split: split of the corpus.
    batch_size: examples per step.
    seed: random seed of the order and the crops.
    token_hash: hash that the tokenizers must have; None accepts all hashes.
    num_epochs: None for endless random crops, for training; otherwise the number of passes over
      fixed crops, for evaluation.
  """

  folder: str
  spec: StageSpec
  split: str = "train"
  batch_size: int = 32
  seed: int = 0
  token_hash: str | None = None
  num_epochs: int | None = None

  def batch_shapes(self) -> BatchShapes:
    """Returns the shapes of the global batch, over all processes."""
    return _examples(self.batch_size, self.spec)

  def __call__(self) -> Batches:
    """Returns the batches of this process."""
    return in_memory.InMemoryTokenBatches(
      self.folder,
      self.spec,
      self.split,
      batch_size=self.batch_size,
      seed=self.seed,
      shard=_shard_here(self.batch_size),
      token_hash=self.token_hash,
      num_epochs=self.num_epochs,
    )


def _waveforms(rows: int, samples: int) -> BatchShapes:
  return {
    "waveform": jax.ShapeDtypeStruct((rows, samples), np.float32),
    "length": jax.ShapeDtypeStruct((rows,), np.int32),
  }


def _examples(rows: int, spec: StageSpec) -> BatchShapes:
  return {
    name: jax.ShapeDtypeStruct((rows, *feature.shape), feature.dtype)
    for name, feature in spec.features().items()
  }


def _shard_here(batch_size: int) -> tuple[int, int]:
  """Returns the index of this process and the number of processes.

  Raises:
    ConfigError: `batch_size` is not a multiple of the number of processes.
  """
  index, count = jax.process_index(), jax.process_count()  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
  if batch_size % count:
    raise ConfigError(f"BATCH_SIZE {batch_size} cannot be split over {count} processes")
  return index, count
