"""Runs stages in sequence: from the tokens of a prompt to all tokens of a clip.

The last stage is sampled to the end of the clip. It requests the tokens that it reads, and the
stages before it sample these tokens, see `pull`. Semantic tokens without repeats have no position
in time. The codes that are sampled from them are therefore decoded and tokenized again
("retokenized") before the next window.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.streams import CODES, SEMANTIC, Role, Stream
from audiolm_jax.io import stored_program
from audiolm_jax.lm.stage import Stage, StageSpec
from audiolm_jax.lm.stages import PAPER_TEMPERATURES
from audiolm_jax.sampling import registry
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.order import feeds, in_order, overlap
from audiolm_jax.sampling.pull import Call, Clip, Given, Progress, Sampler, Targets, Tokens, Track
from audiolm_jax.sampling.windows import steps_of_frames

if TYPE_CHECKING:
  from audiolm_jax.codec.interface import Codec
  from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
  from audiolm_jax.semantic.resampled import ResampledTokenizer

__all__ = ["Cascade", "CascadeOptions", "CascadeResult", "Clip", "retokenizer"]

Retokenize = Callable[[Tokens], Tokens]


@dataclasses.dataclass(frozen=True)
class CascadeOptions:
  """Settings of the sampling of all stages.

  Attributes:
    stages: sampling options by the name of the stage. A stage without options is sampled at the
      temperature of the paper's stage with the same name, or at 1 if the paper has no such stage.
    overlap_seconds: overlap of a window with the previous window, limited to three quarters of the
      stage's crop.
  """

  stages: Mapping[str, SamplingOptions] = dataclasses.field(
    default_factory=dict[str, SamplingOptions]
  )
  overlap_seconds: float = 3.0

  def of(self, name: str) -> SamplingOptions:
    """Returns the options of a stage."""
    return self.stages.get(name, SamplingOptions(PAPER_TEMPERATURES.get(name, 1.0)))


class CascadeResult(NamedTuple):
  """Sampled tokens. The first rows are the samples of the first clip, and so on.

  Attributes:
    streams: by key, the tokens of each row: the given tokens, or the tokens of the prompt and then
      the sampled tokens. All streams of the clip that the sampled stages read or write are
      included. Codes have all levels up to those of the last stage. Semantic tokens have no repeats
      if the stages collapse repeats.
    timings: computation time in seconds by the name of the stage; the time of decoding and
      tokenizing codes again has the name "retokenize".
    scores: for each conditioned stage, by name, the mean log-probability of the drawn tokens of
      each row.
  """

  streams: dict[str, tuple[Tokens, ...]]
  timings: dict[str, float]
  scores: Mapping[str, np.ndarray] = {}

  @property
  def semantic(self) -> tuple[Tokens, ...]:
    """Semantic tokens of each row; empty if no sampled stage reads or writes semantic tokens."""
    return self.streams.get(SEMANTIC, ())

  @property
  def codes(self) -> tuple[Tokens, ...]:
    """Codes of each row, from the codes of the prompt on; KeyError if the result has no codes."""
    return self.streams[CODES]


class Cascade:
  """Samples clips with a sequence of stages.

  Args:
    stages: stages by name, in any order. The last stage that writes codes gives the result; if no
      stage writes codes, all stages should write the same stream.
    semantic_rate: semantic tokens per second of the training data without repeats; required if a
      stage writes semantic tokens without repeats.
    retokenize: maps codes [frames, k] to semantic tokens [steps]; required for clips longer than
      one window if the stages collapse repeats. See `retokenizer`.

  Attributes:
    made: the stream of the result, with all levels.

  Raises:
    ConfigError: there are no stages, they do not fit together, or `semantic_rate` is missing.
  """

  def __init__(
    self,
    stages: Mapping[str, Stage],
    *,
    semantic_rate: float | None = None,
    retokenize: Retokenize | None = None,
  ):
    stages = in_order(stages)
    if not stages:
      raise ConfigError("a cascade requires at least one stage, and none is given")
    self._specs = {name: stage.spec for name, stage in stages.items()}
    _check_stages(list(self._specs.values()))
    last = max(self._specs.values(), key=lambda spec: spec.writes.key == CODES)
    for spec in self._specs.values():
      if spec.writes.key == last.writes.key:
        last = spec
    self._needed = _needed(list(self._specs.values()), last)
    self.made = dataclasses.replace(last.writes, first_level=0, levels=last.writes.end_level)
    if not semantic_rate and any(spec.writes.key in spec.collapsed for spec in self._needed):
      raise ConfigError(
        "these stages collapse repeated semantic tokens, so semantic_rate (collapsed tokens per "
        "second of the training data) must be given"
      )
    self._samplers: dict[str, Sampler] = {
      spec.name: registry.sampler_of(stages[spec.name]) for spec in self._needed
    }
    self._semantic_rate = semantic_rate
    self._retokenize = retokenize

  @property
  def num_quantizers(self) -> int:
    """Number of levels of the resulting codes."""
    return self.made.levels

  def missing(self, given: Collection[str] = ()) -> set[str]:
    """Returns the keys of streams that a clip must also provide because no stage writes them.

    Args:
      given: keys of the streams that the clip provides.
    """
    needed = self._of_call(given)
    return {
      stream.key
      for spec in needed
      for stream in spec.reads
      if stream.key not in given
      and not any(overlap(other.writes, stream) for other in needed if other is not spec)
    }

  def reads(self, key: str) -> bool:
    """Returns whether a stage that the result depends on reads the stream with this key."""
    return any(key == stream.key for spec in self._needed for stream in spec.reads)

  def sample(
    self,
    clips: Sequence[Clip],
    *,
    seed: int = 0,
    num_samples: int = 1,
    options: CascadeOptions | None = None,
    progress: Progress | None = None,
  ) -> CascadeResult:
    """Samples each clip `num_samples` times, all in one batch.

    Args:
      clips: at least one clip; `given` must have equal keys in all clips.
      seed: equal seeds give equal results; sample i of a clip depends neither on other clips nor on
        the number of samples.
      num_samples: number of samples per clip.
      options: settings of sampling.
      progress: called with the name of a stage and its drawn and total tokens per row.

    Returns:
      The tokens of all rows.

    Raises:
      DataError: the clips give different streams, tokens do not fit the stages, a clip is not
        longer than its prompt, or nothing determines its length.
      ConfigError: required tokens are neither written by a stage nor given by the clips.
      UserError: the options do not fit a stage.
    """
    call = self._call(clips, seed, num_samples, options, progress)
    tracks = self._tracks(clips, num_samples, call)
    tracks[self.made.key].extend_to(dict.fromkeys(range(len(call.samples)), float("inf")))
    return _result(tracks, call)

  def stream(
    self,
    clip: Clip,
    *,
    seed: int = 0,
    options: CascadeOptions | None = None,
    progress: Progress | None = None,
  ) -> Generator[Tokens, None, CascadeResult]:
    """Yields the tokens of `sample` for one clip, from its first frame on, as they are drawn.

    Args:
      clip: the clip.
      seed: see `sample`.
      options: settings of sampling.
      progress: see `sample`; for stages that draw in chunks, the numbers are those of one chunk.

    Returns:
      A generator of tokens that returns the result of `sample`.
    """
    call = self._call([clip], seed, 1, options, progress)
    return self._pieces(self._tracks([clip], 1, call), call)

  def rehearsal(self) -> "Cascade | None":
    """Returns a cascade that prepares programs and draws random tokens without running models.

    Its `sample` and `stream` take almost no time. In the background, they load or compile the
    programs that this cascade needs for a call with equal arguments.

    Returns:
      The cascade. None if programs are not stored, a kind of stage does not support rehearsal, or
      the number of tokens depends on the drawn tokens.
    """
    if not stored_program.is_on() or any(spec.collapsed for spec in self._needed):
      return None
    samplers = {name: sampler.rehearsed() for name, sampler in self._samplers.items()}
    if None in samplers.values():
      return None
    rehearsal = copy.copy(self)
    rehearsal._samplers = {name: s for name, s in samplers.items() if s is not None}
    return rehearsal

  def _call(
    self,
    clips: Sequence[Clip],
    seed: int,
    num_samples: int,
    options: CascadeOptions | None,
    progress: Progress | None,
  ) -> Call:
    options = options or CascadeOptions()
    rate = self.made.rate or 1.0
    seconds = [None if c.num_frames is None else c.num_frames / rate for c in clips]
    return Call(
      seconds=[s for s in seconds for _ in range(num_samples)],
      # The random key of a row depends only on the number of its sample, so a batch of prompts
      # gives the same tokens as separate calls.
      samples=[clip.first_sample + i for clip in clips for i in range(num_samples)],
      seed=seed,
      options=options.of,
      overlap_seconds=options.overlap_seconds,
      progress=progress,
    )

  def _of_call(self, given: Collection[str]) -> list[StageSpec]:
    """Returns the stages to sample from if the clips provide the streams with the keys `given`."""
    *others, last = self._needed
    return _needed([spec for spec in others if spec.writes.key not in given], last)

  def _tracks(self, clips: Sequence[Clip], num_samples: int, call: Call) -> dict[str, Track]:
    """Returns the tracks of one call by key; `made.key` is the key of the result."""
    given = set(clips[0].given)
    if any(set(clip.given) != given for clip in clips):
      raise DataError("clips with different streams given must be sampled apart")
    absent = self.missing(given)
    if absent:
      names = ", ".join(sorted(absent))
      raise ConfigError(f"the stages read {names}, which no stage writes and the clips do not give")
    needed = self._of_call(given)
    checked = [self._checked(clip, needed) for clip in clips]

    def rows(key: str) -> list[Tokens]:
      return [tokens[key] for tokens in checked for _ in range(num_samples)]

    tracks: dict[str, Track] = {}
    for spec in needed:
      for stream in spec.reads:
        if stream.key in given and stream.key not in tracks:
          tracks[stream.key] = Given(stream, rows(stream.key), stream.key in spec.collapsed)
      key = spec.writes.key
      reads = {stream.key: tracks[stream.key] for stream in spec.reads}
      prompts = rows(key)
      targets = self._samplers[spec.name].targets(call, reads, prompts, self._semantic_rate)
      for track in reads.values():
        if isinstance(track, Targets):
          track.is_read_by(targets, self._timed_retokenize(call))
      tracks[key] = targets
    last = tracks[self.made.key]
    if (
      isinstance(last, Targets)
      and not last.may_end
      and None in (last.end(row) for row in range(len(call.samples)))
    ):
      raise DataError("the clip has no length, and no stage ends it; set num_frames")
    return tracks

  def _timed_retokenize(self, call: Call) -> Retokenize | None:
    retokenize = self._retokenize
    if retokenize is None:
      return None

    def timed(codes: Tokens) -> Tokens:
      return call.timed("retokenize", lambda: retokenize(codes))

    return timed

  def _pieces(
    self, tracks: Mapping[str, Track], call: Call
  ) -> Generator[Tokens, None, CascadeResult]:
    """Yields the prompt, then the new tokens; the cascade has one row."""
    last = tracks[self.made.key]
    prompt = last.prompts[0] if isinstance(last, Targets) else last.rows[0]
    sent = len(prompt)
    if sent:
      yield prompt
    rate = self.made.rate
    until = float("inf")
    while True:
      if rate is not None:
        until = (len(last.rows[0]) + 1) / rate
      if not last.extend({0: until}):
        return _result(tracks, call)
      codes = last.rows[0]
      if len(codes) > sent:
        yield codes[sent:]
        sent = len(codes)

  def _checked(self, clip: Clip, needed: Sequence[StageSpec]) -> dict[str, Tokens]:
    """Returns, by key, the tokens of the prompt of a clip, or all tokens of a given stream."""
    made = self.made
    found: dict[str, Tokens] = {}
    prompt = clip.prompt.get(made.key)
    if prompt is None:
      prompt = np.zeros((0, made.levels) if made.levels else 0, np.int32)
    prompt = np.asarray(prompt)
    if made.levels and (prompt.ndim != 2 or prompt.shape[1] < made.levels):
      raise DataError(
        f"prompt codes have shape {prompt.shape}; these stages need [frames, quantizers] with at "
        f"least {made.levels} quantizers"
      )
    if clip.num_frames is not None and clip.num_frames <= len(prompt):
      raise DataError(
        f"the prompt has {len(prompt)} frames and the result must have {clip.num_frames}; "
        "shorten the prompt or request more frames"
      )
    found[made.key] = (prompt[:, : made.levels] if made.levels else prompt).astype(np.int32)
    for spec in needed:
      for stream in (*spec.reads, spec.writes):
        if stream.key not in found:
          found[stream.key] = self._covering(stream, clip, len(prompt))
    return found

  def _covering(self, stream: Stream, clip: Clip, known: int) -> Tokens:
    """Returns the tokens that cover the prompt, or the whole clip if the stream is given."""
    is_given = stream.key in clip.given
    tokens = (clip.given if is_given else clip.prompt).get(stream.key)
    if tokens is None:
      tokens = np.zeros((0, stream.end_level) if stream.levels else 0, np.int32)
    tokens = np.asarray(tokens, np.int32)
    covered = clip.num_frames if is_given else known
    if stream.role is Role.SOURCE or stream.rate is None:
      return tokens  # the stream has its own time or no time
    if self.made.rate is None or covered is None:
      return tokens
    steps = steps_of_frames(0, covered, self.made.rate, stream.rate).stop
    if len(tokens) < steps:
      raise DataError(
        f"{len(tokens)} {stream.name} tokens do not cover {covered} frames; {steps} are needed"
      )
    return tokens[:steps]


def retokenizer(codec: "Codec", tokenizer: "ChunkedTokenizer | ResampledTokenizer") -> Retokenize:
  """Returns a function that decodes codes and tokenizes the waveform to semantic tokens."""

  def retokenize(codes: Tokens) -> Tokens:
    waveform = codec.decode(codes[None])
    if codec.spec.sample_rate != tokenizer.spec.sample_rate:
      # Imported here because most bundles have one rate and need no resampler.
      from audiolm_jax.io import audio

      rates = codec.spec.sample_rate, tokenizer.spec.sample_rate
      waveform = audio.resample(np.asarray(waveform), *rates)
    return np.asarray(tokenizer.tokenize(waveform))[0]

  return retokenize


def _result(tracks: Mapping[str, Track], call: Call) -> CascadeResult:
  streams = {
    key: tuple(track.tokens()) for key, track in tracks.items() if track.stream.role is Role.TARGET
  }
  return CascadeResult(streams, dict(call.timings), call.scores)


def _needed(specs: Sequence[StageSpec], last: StageSpec) -> list[StageSpec]:
  """Returns the stage `last` and all stages that it depends on, in the order of `specs`."""
  needed = [last]
  for spec in reversed(specs):
    if spec is not last and any(feeds(spec, reader) for reader in needed):
      needed.insert(0, spec)
  return needed


def _check_stages(specs: Sequence[StageSpec]) -> None:
  """Raises a `ConfigError` if stages disagree on a stream or their levels are not consecutive."""
  for i, spec in enumerate(specs):
    for other in specs[:i]:
      _check_same_streams(spec, other)
  writers: dict[str, list[StageSpec]] = {}
  for spec in sorted(specs, key=lambda spec: spec.writes.first_level):
    writers.setdefault(spec.writes.key, []).append(spec)
  for key, of_key in writers.items():
    for below, above in itertools.pairwise(of_key):
      if not above.writes.levels or above.writes.first_level == below.writes.first_level:
        raise ConfigError(f"the {below.name} and {above.name} stages both write {key}")
      if above.writes.first_level != below.writes.end_level:
        raise ConfigError(
          f"the {above.name} stage reads {above.writes.first_level} levels, the {below.name} stage "
          f"makes {below.writes.end_level}"
        )


def _check_same_streams(spec: StageSpec, other: StageSpec) -> None:
  for key in sorted(spec.streams.keys() & other.streams.keys()):
    one, two = spec.streams[key], other.streams[key]
    for field, what in (("rate", "rate"), ("size", "vocabulary")):
      if getattr(one, field) != getattr(two, field):
        raise ConfigError(
          f"the {spec.name} and {other.name} stages disagree on the {what} of {key}: "
          f"{getattr(one, field)} and {getattr(two, field)}"
        )
    if (key in spec.collapsed) != (key in other.collapsed):
      raise ConfigError(
        f"the {spec.name} and {other.name} stages must both collapse repeats of {key}, or neither"
      )
