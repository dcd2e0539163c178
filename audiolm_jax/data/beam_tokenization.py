"""Writes token stores with Apache Beam, which distributes shards over the workers of any runner.

         job         ──▶       missing shards        ──▶  one file each  ──▶  store.json
     (one element)        (one worker lists them)         (all workers)      (one worker)

The pipeline has the same steps for any corpus. On a remote runner, it finishes even if the program
that started it has ended. A killed run loses only its unfinished shards. Rerun the same command to
create them.
"""

import contextlib
import dataclasses
import io
import re
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.utils.shared import Shared

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.data import audio_shards, manifest, token_shards, token_store, tokenization
from audiolm_jax.data.outdated_clips import Outdated
from audiolm_jax.io import storage

if TYPE_CHECKING:
  from audiolm_jax.bundles.bundle import Bundle


@dataclasses.dataclass(frozen=True)
class TokenizationJob:
  """The settings of a run, which every worker receives.

  Attributes:
    bundle: name, folder or URL of a bundle that every worker can load.
    output_dir: folder of the store, to which every worker writes.
    source: folder or manifest, see `manifest.list_clips`; None if `task` is given.
    task: name of a SeqIO task whose source is tokenized.
    module: module that registers the task on import.
    search_width: width of the beam search in the codec, see `Bundle.searching`.
    streams: keys of the token streams to store, see `tokenization.tokenize_corpus`.
    layout: layout of a folder, see `manifest.list_clips`.
    valid_fraction: validation share of a corpus without splits.
    max_skipped_fraction: largest share of unreadable clips that a complete store may have.
    clips_per_shard: largest number of clips per file. With `source`, a file also ends with the clip
      that reaches half an hour of audio; unknown durations are estimated.
    batch_size: number of clips per batch, see `tokenization.tokenize_shard`.
    num_workers: for each worker, the number of batches that are tokenized in parallel and the
      number of files that are read in advance.
  """

  bundle: str
  output_dir: str
  source: str | None = None
  task: str | None = None
  module: str | None = None
  search_width: int = 1
  streams: tuple[str, ...] = tokenization.TOKENIZED
  layout: str | None = None
  valid_fraction: float = 0.05
  max_skipped_fraction: float = 0.01
  clips_per_shard: int = 128
  batch_size: int | None = None
  num_workers: int = 2


def tokenize_corpus(
  job: TokenizationJob, runner: str, beam_options: str = "", *, replace_changed: bool = False
) -> tokenization.Tokenized:
  """Runs a job and waits until it has ended.

  Args:
    job: the job to run.
    runner: name of a Beam runner.
    beam_options: options of the runner, as on a command line.
    replace_changed: see `tokenization.tokenize_corpus`; changed or removed clips are dropped first.

  Raises:
    DataError: the corpus has no clips or too many unreadable clips; the store has tokens of other
      tokenizers, other streams, or clips whose files have changed or were removed; or the runner
      returned before the end of the job.
    UserError: the options of the runner are invalid, or `replace_changed` is True for a task, whose
      clips cannot be compared one by one.
  """
  if replace_changed and job.task is not None:
    raise UserError("--replace_changed cannot be used with --task; choose another --output_dir")
  began = time.monotonic()
  tokenizers = _load(job)
  dropped = Outdated({}, [])
  if replace_changed:
    writer = tokenization.open_writer(tokenizers, job.output_dir, job.streams)
    dropped = tokenization.missing_clips(writer, _clips(job), replace_changed=True).dropped
  begun = tokenization.open_writer(tokenizers, job.output_dir, job.streams).info
  before = sum(begun.hours.values())
  next(_missing_shards(job, tokenizers), None)  # reports errors of the source before the run
  # With the name DirectRunner, Beam would first try to download another runner.
  engine = FnApiRunner() if runner == "DirectRunner" else runner
  with _unwrapped_errors(), beam.Pipeline(engine, _options(beam_options)) as pipeline:
    build(pipeline, job)
  info = token_store.read_info(job.output_dir)
  tokenization.check_skipped(info, job.max_skipped_fraction)
  if not info.complete:
    raise DataError(f"{job.output_dir} is unfinished: {runner} returned before its pipeline ended")
  seconds = 3600 * (sum(info.hours.values()) - before)
  counts = tokenization.count_dropped(dropped, info)
  return tokenization.Tokenized(info, seconds, time.monotonic() - began, *counts)


def build(pipeline: beam.Pipeline, job: TokenizationJob) -> None:
  """Adds the steps of a job to a pipeline."""
  once = Shared()
  skipped = (
    pipeline
    | "TokenizationJob" >> beam.Create([job])
    | "MissingShards" >> beam.ParDo(_ListShards(once))
    | "SpreadOut" >> beam.Reshuffle()
    | "Tokenize" >> beam.ParDo(_TokenizeShard(once, job))
  )
  # Every shard emits an element, so that the last step waits for all shards.
  _ = skipped | "Gather" >> beam.CombineGlobally(_merged) | "Finish" >> beam.ParDo(_Finish(job))


class _ListShards(beam.DoFn):
  """Emits the missing shards of a job."""

  def __init__(self, once: Shared):
    self._once = once

  def process(self, element: TokenizationJob) -> Iterator[audio_shards.Shard]:
    yield from _missing_shards(element, _loaded_once(self._once, element))


class _TokenizeShard(beam.DoFn):
  """Writes the file of a shard and emits the reasons for skipped clips, by clip id."""

  def __init__(self, once: Shared, job: TokenizationJob):
    self._once, self._job = once, job
    self._clips = Metrics.counter("cache_tokens", "clips")
    self._seconds = Metrics.counter("cache_tokens", "seconds_of_audio")

  def setup(self) -> None:
    self._tokenizers = _loaded_once(self._once, self._job)

  def process(self, element: audio_shards.Shard) -> Iterator[dict[str, str]]:
    tokens = tokenization.tokenize_shard(
      self._tokenizers,
      element,
      streams=self._job.streams,
      batch_size=self._job.batch_size,
      num_workers=self._job.num_workers,
      count=self._count,
    )
    if tokens.clips:
      name = token_shards.shard_name(element.key)
      token_shards.write_shard(
        self._job.output_dir, tokens.clips, self._tokenizers.token_hash, name
      )
    yield tokens.skipped

  def _count(self, clips: int, seconds: float) -> None:
    self._clips.inc(clips)
    self._seconds.inc(round(seconds))


class _Finish(beam.DoFn):
  """Adds all shards to `store.json`; marks it as complete unless too many clips were skipped."""

  def __init__(self, job: TokenizationJob):
    self._job = job

  def process(self, element: Mapping[str, str]) -> None:
    begun = token_store.read_info(self._job.output_dir)
    writer = token_store.TokenStoreWriter(self._job.output_dir, begun.token_hash)
    for clip_id, reason in element.items():
      writer.skip(clip_id, reason)
    try:
      tokenization.check_skipped(writer.info, self._job.max_skipped_fraction)
    except DataError:  # `tokenize_corpus` raises it again, from the saved store
      writer.save()
    else:
      writer.finish()


def _missing_shards(job: TokenizationJob, tokenizers: "Bundle") -> Iterator[audio_shards.Shard]:
  writer = tokenization.open_writer(tokenizers, job.output_dir, job.streams)
  if job.task is not None:
    existing = token_shards.shard_files(job.output_dir)
    sample_rate = tokenizers.codec.spec.sample_rate
    shards = {
      token_shards.shard_name(shard.key): shard
      for shard in audio_shards.shards_of_task(
        job.module or "", job.task, sample_rate, job.clips_per_shard
      )
    }
    other = next((name for name in existing if name not in shards), None)
    if other is not None:
      raise DataError(
        f"{other} in {job.output_dir} is not a part of {job.task}: its clips or --clips_per_shard "
        "have changed; restore them, or choose another --output_dir"
      )
    writer.save()
    yield from (shard for name, shard in shards.items() if name not in existing)
    return
  missing = tokenization.missing_clips(writer, _clips(job)).clips
  yield from audio_shards.shards_of_clips(
    missing, job.clips_per_shard, tokenization.SECONDS_PER_SHARD
  )


def _clips(job: TokenizationJob) -> list[manifest.AudioClip]:
  return manifest.list_clips(job.source or "", job.valid_fraction, job.layout, texts=True)


def _merged(dictionaries: Iterable[Mapping[str, str]]) -> dict[str, str]:
  return {key: value for one in dictionaries for key, value in one.items()}


def _loaded_once(once: Shared, job: TokenizationJob) -> "Bundle":
  """Returns the bundle of a job; each process loads the bundle only once."""
  return once.acquire(lambda: _load(job), tag=f"{job.bundle}, {job.search_width}")


def _load(job: TokenizationJob) -> "Bundle":
  compilation_cache.enable()
  from audiolm_jax import bundles

  with tempfile.TemporaryDirectory() as folder:
    bundle = bundles.load_bundle(storage.fetched_folder(job.bundle, folder), stages=())
  return bundle.searching(job.search_width)


def _options(beam_options: str) -> PipelineOptions:
  stderr = io.StringIO()
  try:
    with contextlib.redirect_stderr(stderr):  # argparse would print all of Beam's options
      options = PipelineOptions(shlex.split(beam_options))
      options.get_all_options()
    return options
  except (ValueError, SystemExit) as error:
    lines = stderr.getvalue().splitlines()
    reason = lines[-1].rpartition("error: ")[2] if lines else error
    raise UserError(f"--beam_options={beam_options!r} cannot be used: {reason}") from None


@contextlib.contextmanager
def _unwrapped_errors() -> Iterator[None]:
  """Raises a `DataError` in place of a runner's exception that wraps an error of this package."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    found = re.search(r"(?:DataError|UserError|BundleError|AudioError): ([^\n]*)", str(error))
    if found is None:
      raise
    raise DataError(found[1].split(" [while running")[0]) from None
