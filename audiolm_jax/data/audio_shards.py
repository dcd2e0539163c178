"""Audio shards: clips that are tokenized together and become one file of a token store."""

import collections
import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import AudioError, DataError
from audiolm_jax.data.manifest import AudioClip, open_clip, source_of
from audiolm_jax.io.audio import SlicedAudio

if TYPE_CHECKING:
  from audiolm_jax.data.sources import WaveformDataSource

T = TypeVar("T")
R = TypeVar("R")

_BYTES_PER_SECOND = 32_000  # 16-bit samples at 16 kHz, for files of unknown duration


# The axis has no name, because clips differ in length.
Waveform = Float[np.ndarray, "_"] | SlicedAudio


class DecodedClip(NamedTuple):
  """A clip and its waveform.

  Attributes:
    clip: the clip.
    waveform: waveform of the clip, float32 [samples]; a long clip is read in slices, see
      `manifest.open_clip`.
    source: waveform of the recording at `AudioClip.source_path`; None if the clip has no such
      recording, or if sources were not read.
  """

  clip: AudioClip
  waveform: Waveform
  source: Waveform | None = None


class FailedClip(NamedTuple):
  """A clip that cannot be read, and the reason."""

  clip: AudioClip
  reason: str


@runtime_checkable
class Shard(Protocol):
  """A group of clips that can be read in sequence. A shard is small and can be pickled."""

  @property
  def key(self) -> list[str]:
    """The strings from which `token_shards.shard_name` derives the file name."""
    ...

  def read(
    self, sample_rate: int, ahead: int, *, sources: bool = True
  ) -> Iterator[DecodedClip | FailedClip]:
    """Yields each clip, as a `FailedClip` if it cannot be read.

    Args:
      sample_rate: sample rate of the waveforms in Hz.
      ahead: largest number of clips that are read in advance; a `TaskShard` ignores it.
      sources: whether to read the source recordings of the clips too.
    """
    ...


@dataclasses.dataclass(frozen=True)
class ClipShard:
  """A shard of audio files from a folder or manifest."""

  clips: tuple[AudioClip, ...]

  @property
  def key(self) -> list[str]:
    """The sorted ids of the clips."""
    return sorted(clip.id for clip in self.clips)

  def read(
    self, sample_rate: int, ahead: int, *, sources: bool = True
  ) -> Iterator[DecodedClip | FailedClip]:
    """Yields each clip, while up to `ahead` further clips are read in parallel."""

    def read(clip: AudioClip) -> DecodedClip | FailedClip:
      source = source_of(clip) if sources else None
      what = ""
      try:
        waveform = open_clip(clip, sample_rate)
        if source is None:
          return DecodedClip(clip, waveform)
        what = "its source: "
        return DecodedClip(clip, waveform, open_clip(source, sample_rate))
      except AudioError as error:
        return FailedClip(clip, f"{what}{error}")

    with ThreadPoolExecutor(max(1, ahead)) as pool:
      yield from _in_order(pool, read, self.clips, ahead)


@dataclasses.dataclass(frozen=True)
class TaskShard:
  """A part of a split of a SeqIO data source.

  The examples of the data source have the features `id`, `speaker` and `waveform`.

  Attributes:
    module: module that registers the task on import.
    task: name of the task with the data source.
    split: split of the data source.
    index: index of this part.
    count: number of parts in the split.
    corpus: two hashes that identify the clips of the split, see `manifest.Fingerprint`.
  """

  module: str
  task: str
  split: str
  index: int
  count: int
  corpus: tuple[int, int]

  @property
  def key(self) -> list[str]:
    """The strings that identify the part.

    They contain no ids of clips, because the ids are unknown until the part is read.
    """
    numbers = self.index, self.count, *self.corpus
    return [self.task, self.split, *map(str, numbers)]

  def read(
    self, sample_rate: int, ahead: int, *, sources: bool = True
  ) -> Iterator[DecodedClip | FailedClip]:
    """Yields the readable clips of the part, then a `FailedClip` for each other clip.

    `ahead` is ignored, because the data source has its own buffers. `sources` is ignored, because
    the examples of a data source contain no source recordings.
    """
    del ahead, sources
    import seqio

    from audiolm_jax.data.seqio_batches import unwrapped_errors

    source = task_source(self.module, self.task, sample_rate)
    part = seqio.ShardInfo(self.index, self.count)
    with unwrapped_errors():
      dataset = source.get_dataset(self.split, shuffle=False, shard_info=part)
      for example in dataset.as_numpy_iterator():
        speaker = example["speaker"].decode(errors="surrogatepass") or None
        clip = AudioClip(example["id"].decode(errors="surrogatepass"), "", self.split, speaker)
        yield DecodedClip(clip, example["waveform"])
    for clip_id, reason in source.skipped_in(self.split, part).items():
      yield FailedClip(AudioClip(clip_id, "", self.split), reason)


def shards_of_clips(
  clips: Iterable[AudioClip], clips_per_shard: int, seconds_per_shard: float
) -> Iterator[ClipShard]:
  """Yields consecutive clips as shards.

  A shard ends when it has `clips_per_shard` clips or at least `seconds_per_shard` seconds of audio.
  An unknown duration is estimated from the file size as that of 16-bit samples at 16 kHz; it counts
  as 0 if the size is unknown too.
  """
  waiting: list[AudioClip] = []
  seconds = 0.0
  for clip in clips:
    waiting.append(clip)
    seconds += (clip.size or 0) / _BYTES_PER_SECOND if clip.seconds is None else clip.seconds
    if len(waiting) >= clips_per_shard or seconds >= seconds_per_shard:
      yield ClipShard(tuple(waiting))
      waiting, seconds = [], 0.0
  if waiting:
    yield ClipShard(tuple(waiting))


def shards_of_task(
  module: str, task: str, sample_rate: int, clips_per_shard: int
) -> Iterator[TaskShard]:
  """Yields parts of at most `clips_per_shard` clips, which cover all splits of a SeqIO task.

  The same arguments give the same parts if the corpus has not changed.

  Raises:
    DataError: see `task_source`.
  """
  source = task_source(module, task, sample_rate)
  for split in source.splits:
    count = -(-source.num_clips(split) // clips_per_shard)
    found = source.fingerprint(split)
    corpus = found.corpus, found.content
    for index in range(count):
      yield TaskShard(module, task, split, index, count, corpus)


def task_source(module: str, task: str, sample_rate: int) -> "WaveformDataSource":
  """Returns the data source of a SeqIO task.

  Raises:
    DataError: the module or a module that it imports is not found, the task does not exist, or its
      data source has no waveforms at `sample_rate`.
  """
  import seqio

  from audiolm_jax.data import sources

  try:
    importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise DataError(
      f"--module {module} cannot be imported ({error}); name the module that registers {task}"
    ) from error
  if task not in seqio.TaskRegistry.names():
    known = ", ".join(sorted(seqio.TaskRegistry.names())) or "none"
    raise DataError(f"{module} registers no task {task!r}; registered are: {known}")
  source = seqio.TaskRegistry.get(task).source
  if not isinstance(source, sources.WaveformDataSource):
    raise DataError(
      f"the source of {task} is a {type(source).__name__}, which has no waveforms; name a task of "
      "audio files or of a TFDS data set"
    )
  if source.sample_rate != sample_rate:
    raise DataError(
      f"{task} is read at {source.sample_rate} Hz, the tokenizers need {sample_rate} Hz; register "
      "it with the same bundle or sample rate"
    )
  return source


def _in_order(
  pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T], ahead: int
) -> Iterator[R]:
  """Yields `function(item)` for each item in order, computing up to `ahead` in advance."""
  waiting: collections.deque[Future[R]] = collections.deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    for future in waiting:
      future.cancel()
