"""The settings of sampling with a bundle, and the checks of settings and prompts."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeGuard

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from audiolm_jax.bundles.bundle import Bundle, audio_stages
from audiolm_jax.core import arguments, ranges
from audiolm_jax.core.configs import Json, shown
from audiolm_jax.core.errors import ConfigError, UserError
from audiolm_jax.core.plain_json import is_list, is_mapping
from audiolm_jax.core.streams import CODES
from audiolm_jax.detection.watermark import STRENGTHS, WatermarkKind, payload_words, private_key
from audiolm_jax.io import audio, waveforms
from audiolm_jax.lm.stage import StageSpec
from audiolm_jax.sampling.cascade import CascadeOptions
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.processors import Processor
from audiolm_jax.sampling.watermark import mark_of

LEAST_PROMPT_SECONDS = 0.4
LONGEST_SECONDS = 3_600
PROMPT_SECONDS = ranges.Range(LEAST_PROMPT_SECONDS, 1_000_000)
_DURATIONS = ranges.Range(0, LONGEST_SECONDS)
_PER_STAGE = ("temperature", "top_k", "top_p", "passes", "guidance", "lookahead")


class Mode(enum.StrEnum):
  """The modes of sampling.

  CONTINUATION samples audio after a prompt, UNCONDITIONAL samples without a prompt, and RESYNTHESIS
  samples codes for the semantic tokens of the prompt.

  Source: AudioLM, section IV-B.
  """

  CONTINUATION = "continuation"
  UNCONDITIONAL = "unconditional"
  RESYNTHESIS = "resynthesis"


class PromptAudio(enum.StrEnum):
  """The form of the prompt in the output: decoded from codes, original samples, or omitted."""

  CODEC = "codec"
  ORIGINAL = "original"
  NONE = "none"


class SamplingSettings(TypedDict, total=False):
  """The keyword arguments that control how stages sample, in continuations and in speech.

  Attributes:
    temperature: temperature by stage; 0 selects the most likely token. The default is the
      temperature of the bundle, else of the paper (0.6, 0.8 and 0.6 for the semantic, coarse and
      fine stages), else 1.
    top_k: number k by stage; samples from the k most likely tokens. 0 (default) for all tokens.
    top_p: probability p by stage; samples from the smallest set of most likely tokens whose
      probabilities sum to at least p. The default is 1, for all tokens.
    passes: for parallel stages, the number of passes (evaluations of the model) of each level by
      stage; levels without a number have 1 pass. () selects the codes nearest to the vectors that
      the stage predicts, in one pass. The default is the setting of the stage.
    lookahead: for parallel stages, the seconds of new audio in the first window, by stage. Each
      further window has twice the new audio of the previous window, up to a whole window. The
      default is a whole window from the first window on. With a smaller value, a stream returns its
      first audio earlier and computes a few more windows.
    watermark: strength of the watermark in the sampled codes: the number that is added to the
      logits of preferred (green) codes; "off" or 0 for no watermark. The default is the bundle's
      strength, or no watermark if the bundle has none. A gumbel watermark has strength 1.
    watermark_key: content of a key file, 16 to 4096 bytes; the default is the bundle's public key.
    watermark_payload: 1 or 4 bytes that the watermark encodes; the default is no payload.
    guidance: for parallel stages, the factor of the difference between the logits with and without
      semantic tokens, by stage; 1 for no guidance. The default is the setting of the stage.
  """

  temperature: Mapping[str, float]
  top_k: Mapping[str, int]
  top_p: Mapping[str, float]
  passes: Mapping[str, Sequence[int]]
  guidance: Mapping[str, float]
  lookahead: Mapping[str, float]
  watermark: float | str | None
  watermark_key: bytes | None
  watermark_payload: bytes | None


class Settings(SamplingSettings, total=False):
  """The keyword arguments of `Bundle.continue_audio` and `Bundle.stream`.

  They include the arguments in `SamplingSettings`.

  Attributes:
    duration: seconds of new audio, required. In resynthesis, the seconds of the prompt to use;
      None (the default in resynthesis) for the whole prompt.
    seed: random seed, default 0. The same seed gives the same audio, and a sample does not depend
      on other samples.
    prompt_seconds: seconds of the prompt to use, from its beginning; default 3, None for the whole
      prompt. The stages receive only whole semantic tokens (for example, of 40 ms each), so the
      rest of the prompt is sampled again. In resynthesis, the seconds of the voice to use.
    voice: in resynthesis, a recording of the voice to use, [samples] at the rate of the prompt; the
      default is a random voice. The tokens of the result begin with the voice.
    mode: see `Mode`; default continuation.
    prompt_audio: form of the prompt in a continuation, see `PromptAudio`; default codec.
    channel_axis: axis of the channels of each prompt and of the voice. Channels are averaged. -1
      for an array [samples, channels] from soundfile; None (default) for one channel.
  """

  duration: float | None
  seed: int
  prompt_seconds: float | None
  voice: Float[np.ndarray, "samples"] | None
  mode: Mode | str
  prompt_audio: PromptAudio | str
  channel_axis: int | None


def check_names(settings: SamplingSettings, known: frozenset[str]) -> None:
  """Raises `TypeError` if the name of a setting is not in `known`."""
  unknown = sorted(set(settings) - known)
  if unknown:
    raise TypeError(f"unknown settings: {', '.join(unknown)}")


def temperatures_of(bundle: Bundle) -> dict[str, float]:
  """Returns the default temperature of each stage that makes audio.

  The temperatures of the bundle replace the defaults of `CascadeOptions`.
  """
  names = audio_stages(bundle.stages)
  defaults = {name: CascadeOptions().of(name).temperature for name in names}
  return defaults | {n: t for n, t in bundle.temperatures.items() if n in names}


def options_of(bundle: Bundle, settings: Mapping[str, Any], strength: float) -> CascadeOptions:
  """Returns the options of sampling by stage.

  Args:
    bundle: the bundle to sample with.
    settings: the values of each setting by stage, and the key and payload of the watermark.
    strength: strength of the watermark, from `watermark_strength`.

  Raises:
    UserError: a value is out of range, no stage that makes audio has a given name, a key is given
      and the bundle has no watermark, a payload is given and the watermark is off, or a stage
      cannot sample with a gumbel watermark.
  """
  processors = _processors(bundle, settings, strength)
  stages = audio_stages(bundle.stages)
  given: dict[str, Json] = {name: settings.get(name, {}) for name in _PER_STAGE}
  for option, values in given.items():
    if not is_mapping(values):
      example = f'{{"{next(iter(stages))}": {shown(values)}}}'
      raise UserError(
        f"{option} is {shown(values)}; give a value for each stage, such as {example}"
      )
    for name in values:
      if name not in stages:
        names = ", ".join(stages)
        raise UserError(f"{option} of {shown(name)}; the stages of {bundle.name} are {names}")
  temperature = temperatures_of(bundle) | dict(given["temperature"])
  if processors:
    _check_stages_can_carry_mark(bundle, temperature)
  options: dict[str, SamplingOptions] = {}
  for name, stage in stages.items():
    try:
      options[name] = SamplingOptions(
        temperature[name],
        given["top_k"].get(name, 0),
        given["top_p"].get(name, 1.0),
        processors if _is_marked(bundle, stage.spec) else (),
        passes=given["passes"].get(name),
        guidance=given["guidance"].get(name),
        lookahead=given["lookahead"].get(name),
      )
    except UserError as error:
      raise UserError(f"{name}: {error}") from error
  return CascadeOptions(options)


def watermark_strength(bundle: Bundle, value: object) -> float:
  """Returns the strength that a value of the setting `watermark` selects; 0 for no watermark.

  Raises:
    UserError: the value is neither a strength nor "off", or a strength above 0 is given and the
      bundle has no watermark.
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
  """Returns the processor that adds the watermark to sampled codes; () without a watermark.

  Raises:
    UserError: the key, the payload or the strength is not valid for the watermark, a key is given
      and the bundle has no watermark, or a payload is given and the watermark is off.
  """
  key = settings.get("watermark_key")
  words = None if key is None else private_key(key)
  payload = settings.get("watermark_payload")
  mark = bundle.watermark
  if mark is None and words is not None:
    raise UserError(f"the bundle {bundle.name} has no watermark, so it takes no watermark_key")
  if payload is not None:
    payload_words(payload)
    if payload and not strength:
      raise UserError("watermark_payload needs a watermark, and it is off; omit one of them")
  if mark is None or not strength:
    return ()
  return (mark_of(mark, mark.key if words is None else words, strength, payload or b""),)


def _is_marked(bundle: Bundle, spec: StageSpec) -> bool:
  """Returns whether a stage samples levels that the watermark of the bundle marks."""
  mark = bundle.watermark
  return (
    mark is not None and spec.writes.key == CODES and spec.writes.first_level < mark.config.levels
  )


def _check_stages_can_carry_mark(bundle: Bundle, temperature: Mapping[str, object]) -> None:
  """Checks that the stages can sample with a gumbel watermark, if the bundle has one.

  Raises:
    ConfigError: a stage does not sample marked levels in the order of time.
    UserError: a stage samples marked levels at the temperature 0.
  """
  mark = bundle.watermark
  if mark is None or mark.config.kind is not WatermarkKind.GUMBEL:
    return
  for name, stage in bundle.stages.items():
    spec = stage.spec
    if not _is_marked(bundle, spec):
      continue
    if not spec.samples_in_time_order:
      raise ConfigError(
        f"the {name} stage cannot carry a gumbel watermark, because it does not sample its codes "
        "in the order of time; set watermark to off, or make one of fewer levels or a green list "
        "with make_watermark"
      )
    if temperature.get(name) == 0:
      raise UserError(
        f"the {name} stage draws nothing at temperature 0, so a gumbel watermark has no effect; "
        "set another temperature, or watermark to off"
      )


def check_seconds(
  mode: Mode, settings: Settings, sample_rate: int
) -> tuple[float | None, float | None]:
  """Returns the duration and the seconds of the prompt after a check; None for a whole prompt.

  Raises:
    UserError: the duration is missing or too short, or a number is out of range.
  """
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


def prepared_prompts(
  bundle: Bundle,
  waveform: ArrayLike,
  sample_rate: int,
  seconds: float | None,
  channel_axis: int | None,
  most_axes: int,
  name: str,
) -> tuple[list[Float[np.ndarray, "_samples"]], bool]:
  """Returns the first `seconds` of each prompt at the bundle's rate, and whether they are a batch.

  Prompts are a batch if `waveform` is one array [batch, samples].

  Args:
    bundle: the bundle.
    waveform: one prompt, a batch of prompts, or a list of prompts.
    sample_rate: sample rate of the prompts in Hz.
    seconds: seconds to use from the beginning of each prompt; None for whole prompts.
    channel_axis: axis of the channels, which are averaged; None for one channel.
    most_axes: 2 to accept several prompts, 1 for a single prompt.
    name: name of the prompts in error messages.

  Raises:
    AudioError: a prompt is not valid audio, too short or silent, or the rate is out of range.
    UserError: `waveform` is a list and `most_axes` is 1, or `channel_axis` is not an axis.
  """
  rate = waveforms.check_rate(sample_rate)

  def check(samples: ArrayLike, axes: int, name: str) -> Float[np.ndarray, "*batch samples"]:
    return waveforms.check(
      samples, rate, channel_axis=channel_axis, seconds=seconds, most_axes=axes, name=name
    )

  if is_list_of_prompts(waveform):
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


def check_prompt(waveform: Float[np.ndarray, "*batch samples"], rate: int, name: str) -> None:
  """Raises `AudioError` if prompts are shorter than 0.4 s, or one of them is silent."""
  audio.check_length(waveform.shape[-1], rate, LEAST_PROMPT_SECONDS, name)
  audio.check_not_silent(waveform, name)


def is_list_of_prompts(waveform: object) -> TypeGuard[Sequence[ArrayLike]]:
  """Returns whether `waveform` is a list of prompts, and not an array or a list of numbers."""
  first = next(iter(waveform), 0.0) if is_list(waveform) else 0.0
  return not isinstance(first, int | float | np.generic)
