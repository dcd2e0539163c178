"""Continues audio: encodes the prompt, samples tokens with the stages, and decodes them."""

import collections
import dataclasses
import enum
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, TypeGuard, Unpack

import numpy as np
from jaxtyping import Float, Int, Num
from numpy.typing import ArrayLike

from audiolm_jax.bundles.audio_stream import AudioStream
from audiolm_jax.bundles.bundle import Bundle, audio_stages
from audiolm_jax.core import arguments, ranges
from audiolm_jax.core.configs import Json, shown
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.core.plain_json import is_list, is_mapping
from audiolm_jax.core.streams import CODES, SEMANTIC, TEXT, Record
from audiolm_jax.detection.watermark import STRENGTHS, private_key
from audiolm_jax.io import audio, waveforms
from audiolm_jax.io.encoded import Encoded
from audiolm_jax.lm.stage import StageSpec
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.processors import Processor
from audiolm_jax.sampling.watermark import green_list_of

LEAST_PROMPT_SECONDS = 0.4
LONGEST_SECONDS = 3_600
PROMPT_SECONDS = ranges.Range(LEAST_PROMPT_SECONDS, 1_000_000)
_DURATIONS = ranges.Range(0, LONGEST_SECONDS)
_PER_STAGE = ("temperature", "top_k", "top_p", "passes", "guidance")

Progress = Callable[[str, int, int], None]


class Mode(enum.StrEnum):
  """What the sampled audio is conditioned on.

  Source: AudioLM, section IV-B.
  """

  CONTINUATION = "continuation"
  UNCONDITIONAL = "unconditional"
  RESYNTHESIS = "resynthesis"


class PromptAudio(enum.StrEnum):
  """The prompt in the output: decoded from its tokens, its original samples, or omitted."""

  CODEC = "codec"
  ORIGINAL = "original"
  NONE = "none"


@dataclasses.dataclass(frozen=True)
class Continuation:
  """Sampled audio and how it was made.

  Attributes:
    waveform: [samples]. A batch of prompts adds a leading axis; several samples per prompt add an
      axis after it.
    sample_rate: Hz.
    tokens: of the whole clip, the prompt's tokens first. Sampled semantic tokens have their repeats
      collapsed if the stages were trained that way.
    prompt_samples: number of samples of `waveform` that are the prompt.
    new_seconds: seconds of new audio in all clips together.
    timings: seconds spent in each step: "encode", the name of each stage, "decode".
    watermark: strength of the mark in the sampled codes; 0 for none.
  """

  waveform: Float[np.ndarray, "*batch samples"]
  sample_rate: int
  tokens: Encoded
  prompt_samples: int
  new_seconds: float
  timings: dict[str, float]
  watermark: float = 0.0


class Settings(TypedDict, total=False):
  """The keyword arguments of `Bundle.continue_audio` and `Bundle.stream`.

  Attributes:
    duration: seconds of new audio, required. In resynthesis, the seconds of the prompt to use;
      None (the default there) uses all of it.
    seed: random seed, default 0. The same seed gives the same audio, and no sample depends on
      another one.
    prompt_seconds: seconds of the prompt to use, from its beginning; default 3, None for all of it.
      Only the tokens of whole semantic steps are given, so up to 40 ms at its end are sampled. In
      resynthesis, the seconds of the voice to use.
    voice: in resynthesis, a recording of the voice to use, [samples] at the rate of the prompt; the
      default is a voice that the model draws. Its tokens precede those of the result.
    mode: see `Mode`; default continuation.
    prompt_audio: the prompt's part of a continuation, see `PromptAudio`; default codec.
    temperature: per stage; 0 takes the most likely token. The default is the bundle's, else the
      paper's 0.6, 0.8 and 0.6 for the semantic, coarse and fine stages, else 1.
    top_k: per stage; sample from the k most likely tokens; 0 (default) for all.
    top_p: per stage; sample from the most likely tokens whose probabilities reach p; default 1.
    passes: per parallel stage; passes of each level, 1 for levels without a number; () for the
      codes nearest to the predicted points, in one pass. The default is the stage's.
    watermark: strength of the mark in the sampled codes, which is added to the logits of green
      codes; "off" or 0 for none. The default is the bundle's strength, or none if the bundle has no
      watermark.
    watermark_key: content of a key file, 16 to 4096 bytes; the default is the bundle's public key.
    guidance: per parallel stage; factor of the difference that semantic tokens make to the logits,
      1 for no guidance. The default is the stage's.
    channel_axis: of each prompt and of the voice, the axis of the channels, which are averaged,
      such as -1 for the [samples, channels] that soundfile returns; None (default) for one channel.
  """

  duration: float | None
  seed: int
  prompt_seconds: float | None
  voice: Float[np.ndarray, "samples"] | None
  mode: Mode | str
  prompt_audio: PromptAudio | str
  temperature: Mapping[str, float]
  top_k: Mapping[str, int]
  top_p: Mapping[str, float]
  passes: Mapping[str, Sequence[int]]
  guidance: Mapping[str, float]
  watermark: float | str | None
  watermark_key: bytes | None
  channel_axis: int | None


def continue_audio(
  bundle: Bundle,
  waveform: ArrayLike | None = None,
  sample_rate: int | None = None,
  *,
  num_samples: int = 1,
  progress: Progress | None = None,
  **settings: Unpack[Settings],
) -> Continuation | list[Continuation]:
  """Implements `Bundle.continue_audio`."""
  num_samples = arguments.whole(num_samples, "num_samples", ranges.SAMPLES_PER_PROMPT)
  start = time.perf_counter()

  def rehearse(rehearsal: Cascade, clips: list[Clip], options: CascadeOptions) -> None:
    rehearsal.sample(clips, num_samples=num_samples, options=options)

  request = _request(bundle, waveform, sample_rate, settings, rehearse, progress)
  timings = {} if waveform is None else {"encode": time.perf_counter() - start}
  sampled = bundle.cascade.sample(
    request.clips,
    seed=request.seed,
    num_samples=num_samples,
    options=request.options,
    progress=progress,
  )
  start = time.perf_counter()
  # Clips are decoded one at a time, so that a clip does not depend on the others in its batch and
  # one compiled program decodes any number of them.
  made = [
    request.outputs[row // num_samples].cut(np.asarray(bundle.codec.decode(codes[None]))[0], 0)
    for row, codes in enumerate(sampled.codes)
  ]
  timings |= sampled.timings | {"decode": time.perf_counter() - start}

  def result(first: int, last: int, axes: tuple[int, ...]) -> Continuation:
    """Returns the continuation of prompts `first` to `last - 1`."""
    rows = slice(first * num_samples, last * num_samples)
    axes += (num_samples,) if num_samples > 1 else ()
    waveforms = np.stack(made[rows])

    def shaped(tokens: Sequence[np.ndarray], levels: int) -> np.ndarray | Sequence[np.ndarray]:
      if levels:
        codes = np.stack(tokens)
        return codes.reshape(*axes, *codes.shape[1:])
      return tokens if axes else tokens[0]

    streams = {
      key: shaped(tokens[rows], tokens[0].ndim - 1) for key, tokens in sampled.streams.items()
    }
    return Continuation(
      waveform=waveforms.reshape(*axes, *waveforms.shape[1:]),
      sample_rate=bundle.sample_rate,
      tokens=Encoded(streams),
      prompt_samples=request.outputs[first].kept,
      new_seconds=len(made[rows]) * request.outputs[first].made / bundle.sample_rate,
      timings=timings,
      watermark=request.watermark,
    )

  count = len(request.clips)
  if _is_list(waveform):
    return [result(prompt, prompt + 1, ()) for prompt in range(count)]
  return result(0, count, (count,) if request.is_batch else ())


def stream(
  bundle: Bundle,
  waveform: Num[np.ndarray, "samples"] | None = None,
  sample_rate: int | None = None,
  *,
  progress: Progress | None = None,
  **settings: Unpack[Settings],
) -> AudioStream:
  """Implements `Bundle.stream`."""

  def rehearse(rehearsal: Cascade, clips: list[Clip], options: CascadeOptions) -> None:
    collections.deque(rehearsal.stream(clips[0], options=options), maxlen=0)

  request = _request(bundle, waveform, sample_rate, settings, rehearse, progress, most_axes=1)
  codes = bundle.cascade.stream(
    request.clips[0], seed=request.seed, options=request.options, progress=progress
  )
  output = request.outputs[0]
  return AudioStream(bundle, codes, output.kept + output.made, output.kept, output.cut)


def temperatures_of(bundle: Bundle) -> dict[str, float]:
  """Returns the default temperature of each stage that makes audio.

  It is that of the bundle, else the general one.
  """
  names = audio_stages(bundle.stages)
  defaults = {name: CascadeOptions().of(name).temperature for name in names}
  return defaults | {n: t for n, t in bundle.temperatures.items() if n in names}


def check_prompt(waveform: Float[np.ndarray, "*batch samples"], rate: int, name: str) -> None:
  """Raises `AudioError` if a prompt is too short or silent."""
  audio.check_length(waveform.shape[-1], rate, LEAST_PROMPT_SECONDS, name)
  audio.check_not_silent(waveform, name)


@dataclasses.dataclass(frozen=True)
class Output:
  """The parts of one decoded clip that are returned.

  Attributes:
    samples: number of samples of the whole clip, including the prompt.
    made: number of these samples that are new.
    original: the prompt's original samples, if they replace the decoded ones.
    hidden: number of samples of the prompt that are omitted.
  """

  samples: int
  made: int
  original: Float[np.ndarray, "prompt"] | None = None
  hidden: int = 0

  @property
  def kept(self) -> int:
    """The number of samples of the prompt in the output."""
    return self.samples - self.made - self.hidden

  def cut(self, waveform: Float[np.ndarray, "piece"], start: int) -> Float[np.ndarray, "shown"]:
    """Returns the part to return of a piece that begins at sample `start` of the clip."""
    shown = np.clip(waveform[: max(0, self.samples - start)], -1.0, 1.0)
    if self.original is not None:
      true = self.original[start : start + len(shown)]
      shown[: len(true)] = true
    return shown[max(0, self.hidden - start) :]


_Rehearse = Callable[[Cascade, list[Clip], CascadeOptions], None]


class _Request(NamedTuple):
  """A checked request whose prompts are encoded, with one clip and one output for each prompt.

  The prompts are a batch if they were given as one array.
  """

  clips: list[Clip]
  outputs: list[Output]
  seed: int
  options: CascadeOptions
  watermark: float
  is_batch: bool = False


def _request(
  bundle: Bundle,
  waveform: ArrayLike | None,
  sample_rate: int | None,
  settings: Settings,
  rehearse: _Rehearse,
  progress: Progress | None,
  most_axes: int = 2,
) -> _Request:
  """Checks the settings and encodes the prompts, while programs load or compile."""
  unknown = sorted(set(settings) - set(Settings.__annotations__))
  if unknown:
    raise TypeError(f"unknown settings: {', '.join(unknown)}")
  mode = arguments.member(Mode, settings.get("mode", Mode.CONTINUATION), "mode")
  prompt_audio = arguments.member(
    PromptAudio, settings.get("prompt_audio", PromptAudio.CODEC), "prompt_audio"
  )
  if progress is not None and not callable(progress):
    raise UserError(f"progress is {shown(progress)}; give a function of stage, done and total")
  seed, voice = (
    arguments.whole(settings.get("seed", 0), "seed", ranges.SEEDS),
    settings.get("voice"),
  )
  if voice is not None and mode is not Mode.RESYNTHESIS:
    raise UserError(f"{mode.value} mode takes no voice; give it in resynthesis mode")
  duration, prompt_seconds = _check_seconds(mode, settings, bundle.sample_rate)
  _check_stages(bundle, mode)
  strength = watermark_strength(bundle, settings.get("watermark"))
  options = options_of(bundle, settings, strength)
  hop = bundle.codec.spec.hop_length
  new = round((duration or 0.0) * bundle.sample_rate)
  if mode is Mode.UNCONDITIONAL:
    if waveform is not None:
      raise UserError("unconditional mode takes no prompt; pass None as the waveform")
    clips = [Clip(-(-new // hop))]
    _make_ready(bundle, clips, options, rehearse)
    return _Request(clips, [Output(new, new)], seed, options, strength)
  if waveform is None or sample_rate is None:
    raise UserError(f"{mode.value} mode needs a prompt: a waveform and its sample rate")
  step = math.lcm(bundle.semantic.spec.hop_length, hop)

  def whole_steps(prompt: np.ndarray) -> np.ndarray:
    return prompt[: len(prompt) // step * step]

  def prepared(
    given: ArrayLike, seconds: float | None, axes: int, name: str
  ) -> tuple[list[np.ndarray], bool]:
    axis = settings.get("channel_axis")
    return prepared_prompts(bundle, given, sample_rate, seconds, axis, axes, name)

  speaker = np.zeros(0, np.float32)
  if voice is not None:
    (speaker,), _ = prepared(voice, prompt_seconds, 1, "the voice")
    speaker = whole_steps(speaker)
  given = _expected_clip(bundle, speaker, 0).prompt
  seconds = duration if mode is Mode.RESYNTHESIS else prompt_seconds
  prompts, is_batch = prepared(waveform, seconds, most_axes, "the prompt")
  wholes: list[np.ndarray] = []
  expected: list[Clip] = []
  outputs: list[Output] = []
  for prompt in prompts:
    if mode is Mode.RESYNTHESIS:
      frames = -(-len(prompt) // hop)
      # The last codec frame may span more semantic tokens than the audio does.
      wholes.append(np.pad(prompt, (0, frames * hop - len(prompt))))
      content = _expected_clip(bundle, wholes[-1], frames)
      expected.append(resynthesized(given, content.prompt[SEMANTIC], frames))
      total = len(speaker) + len(prompt)
      outputs.append(Output(total, len(prompt), hidden=len(speaker)))
    else:
      wholes.append(whole_steps(prompt))
      expected.append(_expected_clip(bundle, wholes[-1], -(-(len(prompt) + new) // hop)))
      original = prompt if prompt_audio is PromptAudio.ORIGINAL else None
      hidden = len(prompt) if prompt_audio is PromptAudio.NONE else 0
      outputs.append(Output(len(prompt) + new, new, original, hidden))
  _make_ready(bundle, expected, options, rehearse)
  resynthesis = mode is Mode.RESYNTHESIS
  clips: list[Clip] = []
  if len(speaker):
    given = {
      SEMANTIC: bundle.semantic.tokenize_long(speaker),
      CODES: bundle.codec.encode_long(speaker),
    }
  for clip, whole in zip(expected, wholes, strict=True):
    semantic = bundle.semantic.tokenize_long(whole)
    if resynthesis:
      clips.append(resynthesized(given, semantic, len(whole) // hop))
    else:
      prompt = {SEMANTIC: semantic, CODES: bundle.codec.encode_long(whole)}
      clips.append(Clip(clip.num_frames, prompt))
  return _Request(clips, outputs, seed, options, strength, is_batch)


def resynthesized(voice: Record, content: Int[np.ndarray, "steps"], frames: int) -> Clip:
  """Returns a clip of given semantic tokens, after the tokens of a voice.

  Args:
    voice: semantic tokens and codes of the voice; no steps for none.
    content: semantic tokens of the content.
    frames: frames of the content.
  """
  semantic = np.concatenate([voice[SEMANTIC], content])
  total = len(voice[CODES]) + frames
  return Clip(total, prompt={CODES: voice[CODES]}, given={SEMANTIC: semantic})


def _expected_clip(bundle: Bundle, prompt: Float[np.ndarray, "samples"], frames: int) -> Clip:
  """Returns a clip of random tokens that has the length of the encoded prompt, for rehearsal."""
  random = np.random.default_rng(0)
  codec, steps = bundle.codec.spec, -(-len(prompt) // bundle.semantic.spec.hop_length)
  semantic = random.integers(bundle.semantic.spec.num_clusters, size=steps, dtype=np.int32)
  shape = -(-len(prompt) // codec.hop_length), codec.num_quantizers
  codes = random.integers(codec.codebook_size, size=shape, dtype=np.int32)
  return Clip(frames, {SEMANTIC: semantic, CODES: codes})


def _make_ready(
  bundle: Bundle, clips: list[Clip], options: CascadeOptions, rehearse: _Rehearse
) -> None:
  """Starts to load or compile, in the background, the programs that sample the clips.

  All array lengths are known in advance unless stages collapse repeated tokens.
  """
  rehearsal = bundle.cascade.rehearsal()
  if rehearsal is not None:
    rehearse(rehearsal, clips, options)
    for frames in {clip.num_frames for clip in clips if clip.num_frames is not None}:
      bundle.codec.prepare_decode(frames)


def options_of(bundle: Bundle, settings: Mapping[str, Any], strength: float) -> CascadeOptions:
  """Returns the settings of sampling by stage.

  Args:
    bundle: the bundle to sample with.
    settings: its values by stage, and the key of the watermark.
    strength: of the watermark, from `watermark_strength`.

  Raises:
    UserError: a value is out of range, or the bundle has no such stage or no watermark.
  """
  processors = _processors(bundle, settings, strength)
  given: dict[str, Json] = {name: settings.get(name, {}) for name in _PER_STAGE}
  for option, values in given.items():
    if not is_mapping(values):
      example = f'{{"{next(iter(bundle.stages))}": {shown(values)}}}'
      raise UserError(
        f"{option} is {shown(values)}; give a value for each stage, such as {example}"
      )
    for name in values:
      if name not in bundle.stages:
        names = ", ".join(bundle.stages)
        raise UserError(f"{option} of {shown(name)}; the stages of {bundle.name} are {names}")
  temperature = temperatures_of(bundle) | dict(given["temperature"])
  options: dict[str, SamplingOptions] = {}
  for name, stage in bundle.stages.items():
    try:
      options[name] = SamplingOptions(
        temperature[name],
        given["top_k"].get(name, 0),
        given["top_p"].get(name, 1.0),
        processors if _is_marked(bundle, stage.spec) else (),
        passes=given["passes"].get(name),
        guidance=given["guidance"].get(name),
      )
    except UserError as error:
      raise UserError(f"{name}: {error}") from error
  return CascadeOptions(options)


def watermark_strength(bundle: Bundle, value: object) -> float:
  """Returns the strength that a setting of the watermark means; 0 for none.

  Raises:
    UserError: the value is neither a strength nor "off", or the bundle has no watermark.
  """
  if value is None:
    return 0.0 if bundle.watermark is None else bundle.watermark.config.strength
  if isinstance(value, str) and value == "off":
    return 0.0
  strength = arguments.number(value, "watermark", STRENGTHS, '"off"')
  if strength and bundle.watermark is None:
    raise UserError(
      f"the bundle {bundle.name} has no watermark; make one with make_watermark, or set it to off"
    )
  return strength


def _processors(
  bundle: Bundle, settings: Mapping[str, Any], strength: float
) -> tuple[Processor, ...]:
  """Returns the processor that marks codes, if there is a mark."""
  key = settings.get("watermark_key")
  words = None if key is None else private_key(key)
  mark = bundle.watermark
  if mark is None and words is not None:
    raise UserError(f"the bundle {bundle.name} has no watermark, so it takes no watermark_key")
  if mark is None or not strength:
    return ()
  return (green_list_of(mark, mark.key if words is None else words, strength),)


def _is_marked(bundle: Bundle, spec: StageSpec) -> bool:
  """Returns whether a stage samples levels that the watermark of the bundle marks."""
  mark = bundle.watermark
  return (
    mark is not None and spec.writes.key == CODES and spec.writes.first_level < mark.config.levels
  )


def _is_list(waveform: object) -> TypeGuard[Sequence[ArrayLike]]:
  """Returns whether the prompts are a list of arrays, which may differ in length."""
  first = next(iter(waveform), 0.0) if is_list(waveform) else 0.0
  return not isinstance(first, int | float | np.generic)


def prepared_prompts(
  bundle: Bundle,
  waveform: ArrayLike,
  sample_rate: int,
  seconds: float | None,
  channel_axis: int | None,
  most_axes: int,
  name: str,
) -> tuple[list[Float[np.ndarray, "samples"]], bool]:
  """Returns the first `seconds` of each prompt at the bundle's rate, and whether it is a batch.

  Messages call the prompts `name`.
  """
  rate = waveforms.check_rate(sample_rate)

  def check(samples: ArrayLike, axes: int, name: str) -> Float[np.ndarray, "*batch samples"]:
    return waveforms.check(
      samples, rate, channel_axis=channel_axis, seconds=seconds, most_axes=axes, name=name
    )

  if _is_list(waveform):
    if most_axes == 1:
      raise UserError(f"{name} is a list of {len(waveform)}; give one clip, an array [samples]")
    name, is_batch = "prompt [{}] of the list", False
    rows = [check(samples, 1, name.format(i)) for i, samples in enumerate(waveform)]
  else:
    given = check(waveform, most_axes, name)
    is_batch = given.ndim == 2
    name = "prompt [{}] of the batch" if is_batch else name
    rows = list(np.atleast_2d(given))
  prompts = [audio.resample(row, rate, bundle.sample_rate) for row in rows]
  for i, prompt in enumerate(prompts):
    check_prompt(prompt, bundle.sample_rate, name.format(i))
  return prompts, is_batch


def _check_seconds(
  mode: Mode, settings: Settings, sample_rate: int
) -> tuple[float | None, float | None]:
  """Returns the checked duration and seconds of the prompt."""
  duration, prompt_seconds = settings.get("duration"), settings.get("prompt_seconds", 3.0)
  if duration is None and mode is not Mode.RESYNTHESIS:
    raise UserError(f"{mode.value} mode needs a duration: the seconds of new audio")
  if duration is not None:
    duration = arguments.number(duration, "duration", _DURATIONS)
    least = LEAST_PROMPT_SECONDS if mode is Mode.RESYNTHESIS else 1 / sample_rate
    if duration < least:
      what = "a prompt may be" if mode is Mode.RESYNTHESIS else "one sample"
      raise UserError(
        f"duration is {duration:g} s, shorter than {what} ({least:g} s); give more seconds"
      )
  if prompt_seconds is not None:
    prompt_seconds = arguments.number(
      prompt_seconds, "prompt_seconds", PROMPT_SECONDS, "None for the whole prompt"
    )
  return duration, prompt_seconds


def _check_stages(bundle: Bundle, mode: Mode) -> None:
  if not any(stage.spec.writes.key == CODES for stage in bundle.stages.values()):
    raise BundleError(
      f"the bundle {bundle.name} has no stages to sample with, it only encodes and decodes; "
      "train stages and export them with export_bundle"
    )
  if mode is Mode.RESYNTHESIS:
    if not bundle.cascade.reads(SEMANTIC):
      raise BundleError(f"the bundle {bundle.name} has no semantic tokens to keep in resynthesis")
  elif bundle.cascade.missing():
    names = ", ".join(sorted(bundle.cascade.missing()))
    can = "; it can resynthesize only" if names == SEMANTIC else ""
    can = "; it can speak a text, or resynthesize" if names == TEXT.key else can
    raise BundleError(f"the bundle {bundle.name} has no {names} stage{can}")
