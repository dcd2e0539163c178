"""Where batches come from: factories that a run calls once, cheap to make and to print.

Batch sizes count all processes; each process makes its own rows.
"""

import dataclasses
import importlib
from collections.abc import Mapping

import jax
import numpy as np

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data import in_memory
from audiolm_jax.lm.stage import StageSpec
from audiolm_jax.training.batches import Batches

BatchShapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class SeqioDataset:
  """A SeqIO task or mixture; calling it imports seqio and TensorFlow.

  Attributes:
    mixture_or_task_name: as registered.
    task_feature_lengths: {"waveform": samples}; None for a stage.
    spec: of the stage whose examples the task makes; None for waveforms.
    split: of the task.
    batch_size: examples per step.
    seed: of order and crops.
    use_cached: read what `seqio_cache_tasks` wrote.
    shuffle: the order of the examples.
    num_epochs: None for endless.
    module: imported first, for the tasks it registers; None where gin has done so.
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
    if (self.spec is None) == (lengths is None) or set(lengths or {"waveform"}) != {"waveform"}:
      raise ConfigError(
        f"TASK_FEATURE_LENGTHS is {lengths}; give {{'waveform': samples}} for codec and semantic "
        "training, and none for a stage, which knows the lengths of its examples"
      )

  def batch_shapes(self) -> BatchShapes:
    """What all processes' batches look like together."""
    if self.spec is not None:
      return _examples(self.batch_size, self.spec)
    return _waveforms(self.batch_size, (self.task_feature_lengths or {})["waveform"])

  def __call__(self) -> Batches:
    """The batches of this process."""
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
      batch_size=self.batch_size // jax.process_count(),
      seed=self.seed,
      use_cached=self.use_cached,
      shuffle=self.shuffle,
      num_epochs=self.num_epochs,
      shard=_shard_here(self.batch_size),
    )


@dataclasses.dataclass(frozen=True)
class InMemoryAudio:
  """Crops of a corpus of sound that fits in memory; needs neither seqio nor TensorFlow.

  Attributes:
    source: folder of audio files or `.jsonl` manifest.
    crop_seconds: length of an example.
    split: of the corpus.
    batch_size: examples per step.
    seed: of order and crops.
    sample_rate: Hz.
    gain_db: lowest and highest random gain, or None.
    num_epochs: None for endless random crops; 1 for held-out windows that do not move.
    max_skipped_fraction: share of unreadable clips past which to give up.
    labels: what the manifest's field `label` may say; examples then have a feature `label`, the
      place in this list.
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
    """What all processes' batches look like together."""
    shapes = _waveforms(self.batch_size, round(self.crop_seconds * self.sample_rate))
    if self.labels:
      shapes["label"] = jax.ShapeDtypeStruct((self.batch_size,), np.int32)
    return shapes

  def __call__(self) -> Batches:
    """The batches of this process."""
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
class InMemoryTokens:
  """Crops of a token store, as one stage reads them; needs neither seqio nor TensorFlow.

  Attributes:
    folder: that `cache_tokens` wrote.
    spec: of the stage.
    split: of the corpus.
    batch_size: examples per step.
    seed: of order and crops.
    token_hash: of the tokenizers wanted; None takes any.
    num_epochs: None for endless random crops; 1 for held-out windows that do not move.
  """

  folder: str
  spec: StageSpec
  split: str = "train"
  batch_size: int = 32
  seed: int = 0
  token_hash: str | None = None
  num_epochs: int | None = None

  def batch_shapes(self) -> BatchShapes:
    """What all processes' batches look like together."""
    return _examples(self.batch_size, self.spec)

  def __call__(self) -> Batches:
    """The batches of this process."""
    return in_memory.InMemoryTokens(
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
  """Index of this process, and how many there are."""
  if batch_size % jax.process_count():
    raise ConfigError(
      f"BATCH_SIZE {batch_size} cannot be split over {jax.process_count()} processes"
    )
  return jax.process_index(), jax.process_count()
