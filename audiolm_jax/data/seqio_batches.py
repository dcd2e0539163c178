"""Reads batches from a SeqIO task or mixture, with a position that can be saved and restored."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import manifest
from audiolm_jax.data.examples import Example
from audiolm_jax.data.feature_converters import StageFeatureConverter, WaveformFeatureConverter
from audiolm_jax.data.sources import AudioDataSource, TokenStoreDataSource, WaveformDataSource
from audiolm_jax.lm.stage import StageSpec


class SeqioBatches:
  """An iterator over batches of model features as NumPy arrays.

  The data position is the number of returned batches. A resumed run receives the batches that an
  uninterrupted run would receive, because all random numbers depend only on `seed`. Restoring takes
  time, because all earlier batches are read and discarded.

  Args:
    mixture_or_task_name: registered name of the task or mixture.
    task_feature_lengths: {"waveform": number of samples per crop}; None for the examples of a
      stage.
    spec: specification of the stage whose examples the task produces; None for waveforms.
    split: split of the task.
    batch_size: examples per batch of this process.
    seed: random seed of the order and the crops.
    use_cached: whether to read the cache that `seqio_cache_tasks` wrote.
    shuffle: whether to shuffle the examples.
    num_epochs: number of passes over the data; if the last batch is not full, its rows are
      repeated. None for endless batches.
    shard: index of the part of the data that this process reads, and the number of parts.

  Raises:
    DataError: the task does not exist, or the data cannot be used.
  """

  def __init__(
    self,
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int] | None = None,
    *,
    spec: StageSpec | None = None,
    split: str = "train",
    batch_size: int,
    seed: int = 0,
    use_cached: bool = False,
    shuffle: bool = True,
    num_epochs: int | None = None,
    shard: tuple[int, int] = (0, 1),
  ):
    _check_name(mixture_or_task_name)
    converter = WaveformFeatureConverter() if spec is None else StageFeatureConverter(spec)
    lengths = task_feature_lengths if spec is None else StageFeatureConverter.lengths(spec)
    self._seed = seed
    self._batches = 0
    with unwrapped_errors():
      dataset = seqio.get_dataset(
        mixture_or_task_name,
        dict(lengths or {}),
        feature_converter=converter,
        dataset_split=split,
        use_cached=use_cached,
        shuffle=shuffle,
        num_epochs=num_epochs,
        shard_info=seqio.ShardInfo(*shard),
        verbose=False,
        seed=seed,
      )
    self._dataset = dataset.batch(batch_size, drop_remainder=num_epochs is None)
    self._batch_size, self._split, self._spec = batch_size, split, spec
    self._sources = _sources_of(mixture_or_task_name)
    # The clips of sources of other classes are unknown.
    known = WaveformDataSource, TokenStoreDataSource
    found = [source.fingerprint(split) for source in self._sources if isinstance(source, known)]
    self._corpus = manifest.Fingerprint(
      manifest.hash_of(one.corpus for one in found), manifest.hash_of(one.content for one in found)
    )
    self._iterator: Iterator[Example] | None = None

  def __iter__(self) -> "SeqioBatches":
    return self

  def __next__(self) -> Example:
    with unwrapped_errors():
      batch = next(self._iterator or self._start())
    self._batches += 1
    return self._filled_up(batch)

  def _start(self) -> Iterator[Example]:
    rest = self._dataset.skip(self._batches).prefetch(2)
    self._iterator = iter(rest.as_numpy_iterator())
    return self._iterator

  def _filled_up(self, batch: Example) -> Example:
    """Fills a short batch by repeating its rows; the repeated rows of a stage have zero weight."""
    rows, given = self._batch_size, len(next(iter(batch.values())))
    if given == rows:
      return batch
    filled = {name: np.resize(value, (rows, *value.shape[1:])) for name, value in batch.items()}
    if self._spec is not None:
      for name, value in self._spec.filler(filled).items():
        filled[name][given:] = value[given:]
    return filled

  def get_state(self) -> dict[str, int]:
    """Returns the data position after the last returned batch, with hashes of the corpus."""
    return {"seed": self._seed, "batches": self._batches, **self._corpus._asdict()}

  def skip_report(self) -> str:
    """Returns a summary of the audio files that could not be read so far; "" if there are none."""
    logs = [s.skipped[self._split] for s in self._sources if isinstance(s, AudioDataSource)]
    return "; ".join(log.report() for log in logs if log.skipped)

  def set_state(self, state: dict[str, int]) -> None:
    """Restores a data position that `get_state` returned.

    Raises:
      DataError: the position was saved with a different seed or corpus.
    """
    if state["seed"] != self._seed:
      raise DataError(
        f"the saved data position has RANDOM_SEED {state['seed']}, this run has {self._seed}; "
        "resume with the seed of the first run"
      )
    self._corpus.check(state)
    self._batches = state["batches"]
    self._iterator = None


def set_data_dirs(cache_dirs: Sequence[str] = (), tfds_data_dir: str | None = None) -> None:
  """Adds folders in which SeqIO searches for cached tasks; sets the folder of TFDS data sets."""
  if cache_dirs:
    seqio.add_global_cache_dirs(list(cache_dirs))
  if tfds_data_dir:
    seqio.set_tfds_data_dir_override(tfds_data_dir)


class unwrapped_errors:
  """Context manager that raises `DataError` in place of errors of TensorFlow and SeqIO.

  The errors are a TensorFlow error that wraps a `DataError`, and a SeqIO error for a missing cache.
  """

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
    if isinstance(error, tf.errors.OpError):
      found = re.search(r"DataError: (.*)", str(error))
      if found:
        raise DataError(found[1].strip("'] ")) from None
    if isinstance(error, AssertionError) and "cache director" in str(error):
      raise DataError(
        f"{error}; run seqio_cache_tasks first and name its output with "
        "--seqio_additional_cache_dirs, or set USE_CACHED_TASKS = False"
      ) from None


def _sources_of(name: str) -> list[seqio.DataSource]:
  found = seqio.get_mixture_or_task(name)
  tasks = found.tasks if isinstance(found, seqio.Mixture) else [found]
  return [task.source for task in tasks]


def _check_name(name: str) -> None:
  known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name not in known:
    listed = ", ".join(known) or "none; import a module of tasks/ and name its audio folder"
    raise DataError(f"no task or mixture has the name {name!r}; registered are: {listed}")
