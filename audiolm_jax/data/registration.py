"""Registers the SeqIO tasks and mixtures of a corpus.

The tasks of a corpus NAME are:

    NAME_waveform        crops of audio, for the codec and the semantic encoder
    NAME_tokens          whole clips as semantic tokens and codes, for `seqio_cache_tasks`
    NAME_STAGE_stage     examples of a stage, from crops of tokens; one task for each
                         stage, which can read the cache of NAME_tokens

Each cached clip contains the hash of its tokenizers. Reading the clip raises an error if this hash
is not the hash of the bundle or token store.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import seqio
import tensorflow as tf

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import CODES, Stream
from audiolm_jax.data import preprocessors, sources
from audiolm_jax.data.token_streams import is_token_store, load_tokenizers
from audiolm_jax.data.tokenization import streams_of
from audiolm_jax.lm import stages
from audiolm_jax.lm.stage import Feature, StageSpec, vocabularies_and_rates

if TYPE_CHECKING:
  from audiolm_jax.bundles.bundle import Bundle

SEGMENT_SECONDS = 30  # longer clips are split for the waveform task


class _Corpus(NamedTuple):
  names: list[str]  # names of the tasks
  arguments: tuple[object, ...]  # arguments of the registration


_registered: dict[str, _Corpus] = {}


def register_audio_tasks(
  name: str,
  source: str | os.PathLike[str],
  bundle: "str | os.PathLike[str] | Bundle | None" = None,
  *,
  stage_specs: Mapping[str, StageSpec] | None = None,
  gain_db: tuple[float, float] | None = None,
  sample_rate: int = 16_000,
  valid_fraction: float = 0.05,
  max_skipped_fraction: float = 0.01,
) -> list[str]:
  """Registers the tasks of an audio corpus or of a token store.

  A second call with the same arguments has no effect; a call with other arguments replaces the
  tasks.

  Args:
    name: name of the corpus; the names of the tasks begin with this name.
    source: folder of audio files, manifest, token store, or `tfds:` followed by the name of a TFDS
      data set. A token store has no waveform task.
    bundle: name, folder or object of the bundle with the tokenizers; None to register only the
      waveform task, or to accept the tokens of any tokenizers in a token store.
    stage_specs: specifications of the stage tasks, by stage name; None for `paper_stages` with the
      rates and vocabularies of the bundle or token store.
    gain_db: lowest and highest random gain of waveform crops in dB; None does not change the level.
    sample_rate: sample rate of the waveform task in Hz; with a bundle, the sample rate of its codec
      is used instead.
    valid_fraction: validation share of a corpus without splits.
    max_skipped_fraction: largest accepted share of unreadable clips.

  Returns:
    The names of the tasks.

  Raises:
    BundleError: the bundle cannot be read.
    DataError: the source cannot be used; the rates, vocabularies or levels of a stage do not fit
      the tokens; or a token store has no codes, and `stage_specs` is None.
  """
  tokenizers = _load(bundle)
  token_hash = None if tokenizers is None else tokenizers.token_hash
  given_specs = None if stage_specs is None else tuple(stage_specs.values())
  arguments = (str(source), token_hash, given_specs, gain_db)
  arguments += (sample_rate, valid_fraction, max_skipped_fraction)
  if name in _registered:
    if _registered[name].arguments == arguments:
      return _registered[name].names
    _forget(name)
  if is_token_store(source):
    stored = sources.TokenStoreDataSource(source, token_hash)
    specs = _checked_stages(stage_specs, stored.info.streams)
    names = _register_stages(name, stored, specs, [], stored.info.token_hash, stored.ranks)
  else:
    specs, ranks = {}, {}
    if tokenizers is not None:
      sample_rate = tokenizers.codec.spec.sample_rate
      streams = streams_of(tokenizers)
      ranks = {key: 1 + bool(stream.levels) for key, stream in streams.items()}
      specs = _checked_stages(stage_specs, streams)
    audio = _audio_source(source, sample_rate, valid_fraction, max_skipped_fraction)
    names = [_register_waveforms(name, audio, gain_db)]
    if tokenizers is not None:
      precache = [functools.partial(preprocessors.tokenize, tokenizers=tokenizers)]
      names += _register_stages(name, audio, specs, precache, tokenizers.token_hash, ranks)
  _registered[name] = _Corpus(names, arguments)
  return names


def task_name(name: str, kind: str) -> str:
  """Returns the full name of a task of a corpus or mixture.

  Args:
    name: name of the corpus or mixture.
    kind: kind of the task, such as "waveform" or "coarse_stage".

  Raises:
    DataError: no corpus or mixture is named `name`, or it has no task `kind`.
  """
  if name not in _registered:
    raise DataError(f"no corpus or mixture {name!r} is registered; register it first")
  names = _registered[name].names
  if f"{name}_{kind}" not in names:
    kinds = ", ".join(task.removeprefix(f"{name}_") for task in names)
    raise DataError(
      f"{name} has no task {kind!r}, it has {kinds}; the stages need a bundle with tokenizers"
    )
  return f"{name}_{kind}"


def register_mixtures(name: str, parts: Mapping[str, float]) -> list[str]:
  """Registers mixtures of several corpora: NAME_waveform, NAME_coarse_stage and so on.

  Args:
    name: name of the mixture; the names of the registered mixtures begin with this name.
    parts: mixing rate (relative frequency of examples) of each corpus, by name of the corpus.

  Returns:
    The names of the mixtures: one for each kind of task that all corpora in `parts` have.

  Raises:
    DataError: no tasks are registered for one of the corpora.
  """
  missing = [part for part in parts if part not in _registered]
  if missing:
    raise DataError(f"{name}: no tasks are registered for {missing[0]!r}; register it first")
  arguments = tuple((part, rate, _registered[part].arguments) for part, rate in parts.items())
  if name in _registered:
    if _registered[name].arguments == arguments:
      return _registered[name].names
    _forget(name)
  kinds = [{task.removeprefix(f"{part}_") for task in _registered[part].names} for part in parts]
  names = []
  for kind in sorted(set.intersection(*kinds)):
    rates = [(f"{part}_{kind}", rate) for part, rate in parts.items()]
    names.append(seqio.MixtureRegistry.add(f"{name}_{kind}", rates).name)
  _registered[name] = _Corpus(names, arguments)
  return names


def registered_corpora() -> set[str]:
  """Returns the names of the corpora and mixtures that this module registered."""
  return set(_registered)


def register_from_environment(name: str, variable: str) -> list[str]:
  """Registers the tasks of the source that `variable` names, if this environment variable is set.

  The variable `AUDIOLM_BUNDLE` names the bundle. `seqio_cache_tasks` needs these variables, because
  it has no flags for a corpus.

  Args:
    name: name of the corpus.
    variable: name of the variable; its value is a source, see `register_audio_tasks`.

  Returns:
    The names of the tasks; empty if the variable is not set.
  """
  source = os.environ.get(variable)
  if not source:
    return []
  return register_audio_tasks(name, source, os.environ.get("AUDIOLM_BUNDLE") or None)


def register_function(corpus: str) -> Callable[..., str]:
  """Returns a function `register` for the tasks of a corpus, to configure in gin."""

  def register(
    audio_dir: str,
    task: str = "waveform",
    bundle: str | None = None,
    stage_specs: Mapping[str, StageSpec] | None = None,
    sample_rate: int = 16_000,
    gain_db: tuple[float, float] | None = None,
    max_skipped_fraction: float = 0.01,
  ) -> str:
    """Registers the tasks of the corpus and returns the name of one task.

    Args:
      audio_dir: source of the corpus, see `register_audio_tasks`.
      task: kind of the returned task: "waveform", "tokens", or the name of a stage followed by
        "_stage".
      bundle: name or folder of the bundle with the tokenizers; required to tokenize audio.
      stage_specs: specifications of the stage tasks, by stage name; None for `paper_stages`.
      sample_rate: sample rate of the waveform task in Hz; with a bundle, the sample rate of its
        codec is used instead.
      gain_db: lowest and highest random gain of waveform crops in dB; None does not change the
        level.
      max_skipped_fraction: largest accepted share of unreadable clips.

    Raises:
      BundleError: the bundle cannot be read.
      DataError: see `register_audio_tasks` and `task_name`.
    """
    register_audio_tasks(
      corpus,
      audio_dir,
      bundle,
      stage_specs=stage_specs,
      sample_rate=sample_rate,
      gain_db=gain_db,
      max_skipped_fraction=max_skipped_fraction,
    )
    return task_name(corpus, task)

  return register


def _forget(name: str) -> None:
  for registered in _registered.pop(name).names:
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
      if registered in registry.names():
        registry.remove(registered)


class _TaskOnCacheOf(seqio.Task):
  """A task that reads the cache of another task if it has no cache of its own.

  Both tasks have the same source and the same preprocessors before the cache.
  """

  def __init__(self, name: str, cached_by: seqio.Task, **arguments: Any):
    super().__init__(name, **arguments)
    self._cached_by = cached_by

  @property
  def cache_dir(self) -> str | None:
    return super().cache_dir or self._cached_by.cache_dir


def _register_waveforms(
  name: str, source: sources.WaveformDataSource, gain_db: tuple[float, float] | None
) -> str:
  segment = SEGMENT_SECONDS * source.sample_rate
  task = seqio.TaskRegistry.add(
    f"{name}_waveform",
    source=source,  # pyright: ignore[reportArgumentType]: seqio 0.0.20 has another protocol
    preprocessors=[
      functools.partial(preprocessors.split_long, segment_samples=segment),
      preprocessors.to_pcm16,
      seqio.CacheDatasetPlaceholder(),
      functools.partial(preprocessors.crop_waveforms, gain_db=gain_db),
    ],
    output_features={"waveform": seqio.ContinuousFeature(dtype=tf.float32, rank=1)},
  )
  return task.name


def _register_stages(
  name: str,
  source: seqio.DataSource,
  specs: Mapping[str, StageSpec],
  precache: Sequence[Callable[..., tf.data.Dataset]],
  token_hash: str,
  ranks: Mapping[str, int],
) -> list[str]:
  check = functools.partial(
    preprocessors.check_token_hash, token_hash=token_hash, name=f"{name}_tokens"
  )
  tokens = seqio.TaskRegistry.add(
    f"{name}_tokens",
    source=source,  # pyright: ignore[reportArgumentType]: seqio 0.0.20 has another protocol
    preprocessors=[*precache, seqio.CacheDatasetPlaceholder(), check],
    output_features={key: _feature(Feature((0,) * rank)) for key, rank in ranks.items()},
  )
  names = [tokens.name]
  for spec in specs.values():
    task = _TaskOnCacheOf(
      f"{name}_{spec.name}_stage",
      tokens,
      source=source,
      preprocessors=[
        *precache,
        seqio.CacheDatasetPlaceholder(),
        check,
        functools.partial(preprocessors.only_usable, spec=spec),
        functools.partial(preprocessors.repeat_by_length, spec=spec),
        functools.partial(preprocessors.stage_examples, spec=spec),
      ],
      output_features={name: _feature(f) for name, f in spec.features().items()},
    )
    seqio.TaskRegistry.add_provider(task.name, task)
    names.append(task.name)
  return names


def _feature(feature: Feature) -> seqio.utils.Feature:
  dtype, rank = tf.as_dtype(feature.dtype), len(feature.shape)
  if dtype.is_floating:
    return seqio.ContinuousFeature(dtype=dtype, rank=rank)
  vocabulary = seqio.PassThroughVocabulary(size=0)
  return seqio.Feature(vocabulary, add_eos=False, dtype=dtype, rank=rank)


def _audio_source(
  source: str | os.PathLike[str],
  sample_rate: int,
  valid_fraction: float,
  max_skipped_fraction: float,
) -> sources.WaveformDataSource:
  name = os.fspath(source)
  if name.startswith("tfds:"):
    from audiolm_jax.data import tfds_audio

    return tfds_audio.TfdsAudioDataSource(
      name, sample_rate=sample_rate, valid_fraction=valid_fraction
    )
  return sources.AudioDataSource(
    source,
    sample_rate=sample_rate,
    valid_fraction=valid_fraction,
    max_skipped_fraction=max_skipped_fraction,
  )


def _load(bundle: "str | os.PathLike[str] | Bundle | None") -> "Bundle | None":
  return load_tokenizers(bundle) if isinstance(bundle, str | os.PathLike) else bundle


def _checked_stages(
  stage_specs: Mapping[str, StageSpec] | None, streams: Mapping[str, Stream]
) -> Mapping[str, StageSpec]:
  specs = stage_specs or _stages_for(streams)
  for spec in specs.values():
    spec.check_streams(streams)
  return specs


def _stages_for(streams: Mapping[str, Stream]) -> Mapping[str, StageSpec]:
  if CODES not in streams:
    raise DataError("the tokens have no codes, which the stages of the paper need; set stage_specs")
  levels = streams[CODES].levels
  return stages.paper_stages(num_quantizers=levels, **vocabularies_and_rates(streams))
