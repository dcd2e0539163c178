"""Speaks a text or the content of a recording.

A conditioned stage samples semantic tokens, and the acoustic stages sample codes from these tokens.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

import numpy as np
from jaxtyping import Float, Int, Num
from numpy.typing import ArrayLike

from audiolm_jax.bundles import pauses
from audiolm_jax.bundles.audio_stream import AudioStream
from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.bundles.continuation import (
  Continuation,
  Output,
  Progress,
  resynthesized,
  tokens_of,
  whole_steps,
)
from audiolm_jax.bundles.settings import (
  PROMPT_SECONDS,
  SamplingSettings,
  check_names,
  options_of,
  prepared_prompts,
  watermark_strength,
)
from audiolm_jax.core import arguments, ranges
from audiolm_jax.core.configs import shown
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.core.streams import CODES, SEMANTIC, differences
from audiolm_jax.io.encoded import Encoded
from audiolm_jax.lm import text as texts
from audiolm_jax.lm.conditioned import ConditionedSource, ConditionedSpec, at_rate
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip

RATES = ranges.Range(0.25, 4.0)
CANDIDATES = ranges.Range(1, 1_000)
LONGEST_TEXT = 100_000  # characters


class VoiceSettings(SamplingSettings, total=False):
  """The keyword arguments of `Bundle.speak_from` and `Bundle.stream_speech_from`.

  They include the arguments in `settings.SamplingSettings`, which also apply to the stage that
  reads the text or the recording.

  Attributes:
    voice: a recording of the voice to use, [samples]; the default is a random voice. In
      `speak_from`, the voice has the sample rate of the recording to speak.
    prompt_seconds: seconds of the voice to use, from its beginning; default 3, None for the whole
      recording.
    seed: random seed, default 0. The same seed gives the same audio.
    rate: speaking rate, default 1; the rate 1.25 divides the duration by 1.25. Semantic tokens are
      repeated or dropped to change the rate.
    candidates: number of times that the semantic tokens of each sentence or piece are sampled,
      default 1. The candidate with the highest mean log-probability per token, end token included,
      is used.
    channel_axis: axis of the channels in the recordings; channels are averaged. None (default) for
      one channel.
  """

  voice: Float[np.ndarray, "samples"] | None
  prompt_seconds: float | None
  seed: int
  rate: float
  candidates: int
  channel_axis: int | None


class SpeechSettings(VoiceSettings, total=False):
  """The keyword arguments of `Bundle.speak` and `Bundle.stream_speech`.

  Attributes:
    sample_rate: sample rate of the voice in Hz; required with a voice.
  """

  sample_rate: int | None


def speak(
  bundle: Bundle,
  text: str,
  *,
  num_samples: int = 1,
  progress: Progress | None = None,
  **settings: Unpack[SpeechSettings],
) -> Continuation | list[Continuation]:
  """Implements `Bundle.speak`."""
  check_names(settings, SpeechSettings.__optional_keys__)
  request = _request(bundle, _of_text(bundle, text), settings, num_samples, progress)
  return _spoken(bundle, request, progress)


def stream_speech(
  bundle: Bundle,
  text: str,
  *,
  progress: Progress | None = None,
  **settings: Unpack[SpeechSettings],
) -> AudioStream:
  """Implements `Bundle.stream_speech`."""
  check_names(settings, SpeechSettings.__optional_keys__)
  request = _request(bundle, _of_text(bundle, text), settings, 1, progress)
  return _streamed(bundle, request, progress)


def speak_from(
  bundle: Bundle,
  waveform: Num[np.ndarray, "*channels samples"],
  sample_rate: int,
  *,
  num_samples: int = 1,
  progress: Progress | None = None,
  **settings: Unpack[VoiceSettings],
) -> Continuation | list[Continuation]:
  """Implements `Bundle.speak_from`."""
  check_names(settings, VoiceSettings.__optional_keys__)
  source = _of_recording(bundle, waveform, sample_rate, settings.get("channel_axis"))
  given: SpeechSettings = {**settings, "sample_rate": sample_rate}
  return _spoken(bundle, _request(bundle, source, given, num_samples, progress), progress)


def stream_speech_from(
  bundle: Bundle,
  waveform: Num[np.ndarray, "*channels samples"],
  sample_rate: int,
  *,
  progress: Progress | None = None,
  **settings: Unpack[VoiceSettings],
) -> AudioStream:
  """Implements `Bundle.stream_speech_from`."""
  check_names(settings, VoiceSettings.__optional_keys__)
  source = _of_recording(bundle, waveform, sample_rate, settings.get("channel_axis"))
  given: SpeechSettings = {**settings, "sample_rate": sample_rate}
  return _streamed(bundle, _request(bundle, source, given, 1, progress), progress)


def text_stage(bundle: Bundle) -> ConditionedSpec:
  """Returns the spec of the stage that reads text.

  Raises:
    BundleError: the bundle has no text stage, or no acoustic stage that reads semantic tokens.
  """
  return _stage(bundle, "text", ConditionedSource.TEXT)


def speech_stage(bundle: Bundle) -> ConditionedSpec:
  """Returns the spec of the stage that reads the semantic tokens of another recording.

  Raises:
    BundleError: the bundle has no speech stage, the stage reads tokens that are not from the
      bundle's tokenizer, or the bundle has no acoustic stage that reads semantic tokens.
  """
  spec = _stage(bundle, "speech", ConditionedSource.SEMANTIC)
  (source,) = spec.reads
  for difference in differences(source, bundle.streams[SEMANTIC]):
    raise BundleError(
      f"the {spec.name} stage of the bundle {bundle.name} has {difference}; train a stage whose "
      "sources are tokens of the bundle's own tokenizer"
    )
  return spec


def _stage(bundle: Bundle, name: str, source: ConditionedSource) -> ConditionedSpec:
  """Returns the spec of the stage that predicts semantic tokens from `source`.

  Args:
    bundle: the bundle.
    name: default name of the stage, for error messages and the name of its gin file.
    source: the kind of source that the stage reads.

  Raises:
    BundleError: the bundle has no such stage, or no acoustic stage that reads semantic tokens.
  """
  specs = (stage.spec for stage in bundle.stages.values())
  found = [
    spec
    for spec in specs
    if isinstance(spec, ConditionedSpec) and spec.source is source and not spec.is_transcript
  ]
  if not found:
    raise BundleError(
      f"the bundle {bundle.name} has no {name} stage; train one with "
      f"gin_configs/{name}_stage_small.gin and add it with export_bundle --stage_dir {name}=DIR"
    )
  can_make_audio = any(stage.spec.writes.key == CODES for stage in bundle.stages.values())
  if not can_make_audio or not bundle.cascade.reads(SEMANTIC):
    raise BundleError(
      f"the bundle {bundle.name} has a {name} stage, but no acoustic stage that reads semantic "
      "tokens"
    )
  return found[0]


def can_speak(bundle: Bundle) -> bool:
  """Returns whether a bundle can speak texts."""
  try:
    text_stage(bundle)
  except BundleError:
    return False
  return True


class _Source(NamedTuple):
  """A conditioned stage and the source that the stage reads.

  Attributes:
    spec: spec of the stage.
    cascade: the cascade that contains only this stage.
    parts: function that returns the tokens of each sentence or piece of the source.
  """

  spec: ConditionedSpec
  cascade: Cascade
  parts: Callable[[], list[Int[np.ndarray, "_"]]]


def _of_text(bundle: Bundle, text: object) -> _Source:
  """Returns the sentences of a text as a source."""
  spec = text_stage(bundle)
  parts = [texts.code_points(part) for part in sentences_of(spec, text)]
  return _Source(spec, bundle.text_cascade, lambda: parts)


def _of_recording(
  bundle: Bundle, waveform: ArrayLike, sample_rate: int, channel_axis: int | None
) -> _Source:
  """Returns the semantic tokens of a recording as a source, in pieces that the stage can read."""
  spec = speech_stage(bundle)

  def parts() -> list[Int[np.ndarray, "_"]]:
    (samples,), _ = prepared_prompts(
      bundle, waveform, sample_rate, None, channel_axis, 1, "the source"
    )
    semantic = bundle.semantic.tokenize_long(samples)
    return pauses.pieces(samples, semantic, spec.longest_source)

  return _Source(spec, bundle.speech_cascade, parts)


class _Request(NamedTuple):
  """Checked settings and sampled semantic tokens.

  Attributes:
    clips: one clip per sample; its semantic tokens are given.
    outputs: the part to return for each sample.
    seed: random seed.
    options: options of sampling by stage.
    timings: seconds by step up to now.
    watermark: strength of the watermark; 0 for no watermark.
  """

  clips: list[Clip]
  outputs: list[Output]
  seed: int
  options: CascadeOptions
  timings: dict[str, float]
  watermark: float


def _request(
  bundle: Bundle,
  source: _Source,
  settings: SpeechSettings,
  num_samples: int,
  progress: Progress | None,
) -> _Request:
  num_samples = arguments.whole(num_samples, "num_samples", ranges.SAMPLES_PER_PROMPT)
  seed = arguments.whole(settings.get("seed", 0), "seed", ranges.SEEDS)
  rate = arguments.number(settings.get("rate", 1.0), "rate", RATES)
  candidates = arguments.whole(settings.get("candidates", 1), "candidates", CANDIDATES)
  if progress is not None and not callable(progress):
    raise UserError(f"progress is {shown(progress)}; give a function of stage, done and total")
  strength = watermark_strength(bundle, settings.get("watermark"))
  options = options_of(bundle, settings, strength)
  start = time.perf_counter()
  parts = source.parts()
  given = _voice(bundle, settings)
  spec = source.spec
  is_encoded = spec.source is ConditionedSource.SEMANTIC or len(given[CODES]) > 0
  timings = {"encode": time.perf_counter() - start} if is_encoded else {}
  (stream,) = spec.reads
  sampled = source.cascade.sample(
    [Clip(None, given={stream.key: part}) for part in parts],
    seed=seed,
    num_samples=num_samples * candidates,
    options=options,
    progress=progress,
  )
  timings |= sampled.timings
  rows = best(sampled.semantic, sampled.scores[spec.name], candidates)
  clips: list[Clip] = []
  outputs: list[Output] = []
  codec = bundle.codec.spec
  hidden = len(given[CODES]) * codec.hop_length
  for sample in range(num_samples):
    semantic = at_rate(np.concatenate(rows[sample::num_samples]), rate)
    frames = _frames(bundle, len(semantic))
    steps = -(-frames * codec.hop_length // bundle.semantic.spec.hop_length)
    # The last codec frame may extend past the last semantic token of the clip.
    semantic = np.pad(semantic, (0, max(0, steps - len(semantic))), mode="edge")
    clips.append(resynthesized(given, semantic, frames)._replace(first_sample=sample))
    made = frames * codec.hop_length
    outputs.append(Output(hidden + made, made, hidden=hidden))
  return _Request(clips, outputs, seed, options, timings, strength)


def _spoken(
  bundle: Bundle, request: _Request, progress: Progress | None
) -> Continuation | list[Continuation]:
  """Samples and decodes the codes of each sample; returns a list if there are several samples."""
  made: list[Continuation] = []
  for clip, output in zip(request.clips, request.outputs, strict=True):
    sampled = bundle.cascade.sample(
      [clip], seed=request.seed, options=request.options, progress=progress
    )
    start = time.perf_counter()
    (codes,) = sampled.codes
    waveform = output.cut(np.asarray(bundle.codec.decode(codes[None]))[0], 0)
    timings = sampled.timings | {"decode": time.perf_counter() - start}
    made.append(
      Continuation(
        waveform=waveform,
        sample_rate=bundle.sample_rate,
        tokens=Encoded({key: rows[0] for key, rows in sampled.streams.items()}),
        prompt_samples=0,
        new_seconds=len(waveform) / bundle.sample_rate,
        watermark=request.watermark,
        # The first sample has the times of the steps that all samples share.
        timings=(request.timings if not made else {}) | timings,
      )
    )
  return made[0] if len(made) == 1 else made


def _streamed(bundle: Bundle, request: _Request, progress: Progress | None) -> AudioStream:
  """Returns the audio of a request with one sample as a stream."""
  (clip,), (output,) = request.clips, request.outputs
  codes = bundle.cascade.stream(clip, seed=request.seed, options=request.options, progress=progress)
  return AudioStream(bundle, codes, output.made, 0, output.cut)


def sentences_of(spec: ConditionedSpec, text: object) -> list[str]:
  """Returns the normalised sentences of a text.

  Raises:
    UserError: the argument is not a text, has no words, is too long, has characters that are not in
      the vocabulary of the stage, or has numbers for which num2words is missing or fails.
  """
  if not isinstance(text, str):
    raise UserError(f"the text is {shown(text)}; give a string")
  if len(text) > LONGEST_TEXT:
    raise UserError(f"the text has {len(text)} characters; give at most {LONGEST_TEXT}")
  words = texts.normalized(text, spec.language)
  parts = texts.sentences(words, spec.longest_source)
  if not parts:
    raise UserError(f"the text {shown(text)} has no words; give at least one")
  for part in parts:
    spec.source_ids(texts.code_points(part))
  return parts


def best(
  rows: Sequence[Int[np.ndarray, "_"]], scores: Float[np.ndarray, "rows"], candidates: int
) -> list[Int[np.ndarray, "_"]]:
  """Returns the row with the highest score from each group of `candidates` consecutive rows."""
  chosen = np.asarray(scores).reshape(-1, candidates).argmax(1)
  return [rows[candidates * group + int(row)] for group, row in enumerate(chosen)]


def _voice(bundle: Bundle, settings: SpeechSettings) -> dict[str, np.ndarray]:
  """Returns the semantic tokens and codes of the voice; empty arrays without a voice."""
  voice, codec = settings.get("voice"), bundle.codec.spec
  if voice is None:
    empty = np.zeros((0, codec.num_quantizers), np.int32)
    return {SEMANTIC: np.zeros(0, np.int32), CODES: empty}
  sample_rate = settings.get("sample_rate")
  if sample_rate is None:
    raise UserError("the voice needs its sample_rate, in Hz")
  seconds = settings.get("prompt_seconds", 3.0)
  if seconds is not None:
    seconds = arguments.number(
      seconds, "prompt_seconds", PROMPT_SECONDS, "None for the whole recording"
    )
  axis = settings.get("channel_axis")
  (speaker,), _ = prepared_prompts(bundle, voice, sample_rate, seconds, axis, 1, "the voice")
  return tokens_of(bundle, whole_steps(bundle, speaker))


def _frames(bundle: Bundle, steps: int) -> int:
  """Returns the number of codec frames that cover `steps` semantic tokens."""
  return -(-steps * bundle.semantic.spec.hop_length // bundle.codec.spec.hop_length)
