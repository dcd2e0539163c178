"""The whole way of a continuation: prompt to tokens, the three stages, tokens to sound."""

import dataclasses
import enum
import math
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int, Num

from audiolm_jax import audio
from audiolm_jax.bundles import Bundle
from audiolm_jax.errors import AudioError, BundleError, UserError
from audiolm_jax.lm.stages import STAGE_NAMES
from audiolm_jax.sampling.cascade import CascadeOptions, CascadeResult
from audiolm_jax.sampling.logits import SamplingOptions

LEAST_PROMPT_SECONDS = 0.4
LONGEST_SECONDS = 3600.0

Progress = Callable[[str, int, int], None]
Choice = TypeVar("Choice", bound=enum.StrEnum)


class Mode(enum.StrEnum):
  """What is given. Source: AudioLM, section IV-B."""

  CONTINUATION = "continuation"
  UNCONDITIONAL = "unconditional"
  RESYNTHESIS = "resynthesis"


class PromptAudio(enum.StrEnum):
  """The prompt in the output: decoded from its tokens, its true samples, or left out."""

  CODEC = "codec"
  ORIGINAL = "original"
  NONE = "none"


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Tokens of a clip, or of several.

  Attributes:
    semantic: [steps], each in [0, num_clusters). Of several: [batch, steps] as encoded; a tuple of
      [steps] as sampled, since lengths differ where repeats are collapsed.
    codes: [frames, quantizers], each in [0, codebook_size), coarse levels first; of several with
      the batch's axes before.
  """

  semantic: Int[np.ndarray, "*batch steps"] | tuple[Int[np.ndarray, " steps"], ...]
  codes: Int[np.ndarray, "*batch frames quantizers"]


@dataclasses.dataclass(frozen=True)
class Continuation:
  """Sound that was made, and how.

  Attributes:
    waveform: [samples]; with a batch of prompts and with several samples of each, one more leading
      axis for either, in this order.
    sample_rate: Hz.
    tokens: of the whole clip, the prompt's tokens first; sampled semantic tokens have their repeats
      collapsed if the stages were trained so.
    prompt_samples: samples of `waveform` that are the prompt.
    new_seconds: seconds of sound that were made, over all clips.
    timings: seconds spent by step: "encode", each stage's name, "decode".
  """

  waveform: Float[np.ndarray, "*batch samples"]
  sample_rate: int
  tokens: Encoded
  prompt_samples: int
  new_seconds: float
  timings: dict[str, float]


def continue_audio(
  bundle: Bundle,
  waveform: Num[np.ndarray, "*batch samples"] | None = None,
  sample_rate: int | None = None,
  *,
  duration: float | None = None,
  seed: int = 0,
  prompt_seconds: float | None = 3.0,
  num_samples: int = 1,
  mode: Mode | str = Mode.CONTINUATION,
  temperature_semantic: float | None = None,
  temperature_coarse: float | None = None,
  temperature_fine: float | None = None,
  top_k_semantic: int = 0,
  top_k_coarse: int = 0,
  top_k_fine: int = 0,
  top_p_semantic: float = 1.0,
  top_p_coarse: float = 1.0,
  top_p_fine: float = 1.0,
  prompt_audio: PromptAudio | str = PromptAudio.CODEC,
  progress: Progress | None = None,
) -> Continuation:
  """Continues a recording, makes one up, or says the same in another voice.

  Args:
    bundle: with stages.
    waveform: the prompt, one clip or a batch; None in unconditional mode.
    sample_rate: Hz, of the prompt.
    duration: seconds of new sound; in resynthesis, how much of the prompt is taken (None: all).
    seed: the same one gives the same sound; a sample depends on no other one.
    prompt_seconds: how much of the prompt is heard, from its beginning; None for all of it. Of its
      tokens those of whole semantic steps are given, so up to 40 ms at its end are sampled.
    num_samples: how many for each prompt.
    mode: what is given, see `Mode`.
    temperature_semantic, temperature_coarse, temperature_fine: 0 takes the likeliest token; None
      is the bundle's own, or the paper's 0.6, 0.8 and 0.6 where it has none.
    top_k_semantic, top_k_coarse, top_k_fine: draw among the k likeliest; 0 means all.
    top_p_semantic, top_p_coarse, top_p_fine: draw among the likeliest whose probabilities reach p.
    prompt_audio: what stands at the beginning of the output of a continuation, see `PromptAudio`.
    progress: called with a stage's name, and its tokens drawn and to draw.
  Returns:
    As many samples as the prompt has plus `duration * sample_rate`, rounded, at the bundle's rate.
  Raises:
    UserError: a prompt that is too short, silent or no sound, or settings out of range.
  """
  mode = _member(Mode, mode, "mode")
  prompt_audio = _member(PromptAudio, prompt_audio, "prompt_audio")
  _check_numbers(mode, duration, prompt_seconds, num_samples, seed)
  _check_stages(bundle, mode)
  temperatures = temperatures_of(
    bundle, semantic=temperature_semantic, coarse=temperature_coarse, fine=temperature_fine
  )
  options = CascadeOptions(
    semantic=SamplingOptions(temperatures["semantic"], top_k_semantic, top_p_semantic),
    coarse=SamplingOptions(temperatures["coarse"], top_k_coarse, top_p_coarse),
    fine=SamplingOptions(temperatures["fine"], top_k_fine, top_p_fine),
  )
  timings: dict[str, float] = {}
  start = time.perf_counter()
  seconds = duration if mode is Mode.RESYNTHESIS else prompt_seconds
  prompt = _prepared_prompt(bundle, waveform, sample_rate, mode, seconds)
  tokens = _prompt_tokens(bundle, prompt, whole_steps=mode is Mode.CONTINUATION)
  if mode is not Mode.UNCONDITIONAL:
    timings["encode"] = time.perf_counter() - start

  new = 0 if mode is Mode.RESYNTHESIS else round((duration or 0.0) * bundle.sample_rate)
  samples = prompt.shape[1] + new
  sampled = _sample(
    bundle, mode, tokens, -(-samples // bundle.codec.spec.hop_length),
    seed=seed, num_samples=num_samples, options=options, progress=progress,
  )  # fmt: skip
  start = time.perf_counter()
  # One by one: a clip sounds the same in any company, and one program decodes any number.
  clips = [np.asarray(bundle.codec.decode(row[None]))[0, :samples] for row in sampled.codes]
  made = np.clip(np.stack(clips), -1.0, 1.0)
  timings |= sampled.timings | {"decode": time.perf_counter() - start}

  kept = prompt.shape[1] if mode is Mode.CONTINUATION else 0
  if prompt_audio is PromptAudio.ORIGINAL:
    made[:, :kept] = np.repeat(prompt[:, :kept], num_samples, axis=0)
  elif prompt_audio is PromptAudio.NONE:
    made, kept = made[:, kept:], 0
  axes = _leading_axes(waveform, len(prompt), num_samples)
  semantic = sampled.semantic if axes or not sampled.semantic else sampled.semantic[0]
  rows_seconds = (samples if mode is Mode.RESYNTHESIS else new) / bundle.sample_rate
  return Continuation(
    waveform=made.reshape(*axes, made.shape[1]),
    sample_rate=bundle.sample_rate,
    tokens=Encoded(semantic, sampled.codes.reshape(*axes, *sampled.codes.shape[1:])),
    prompt_samples=kept,
    new_seconds=rows_seconds * len(made),
    timings=timings,
  )


def temperatures_of(bundle: Bundle, **asked: float | None) -> dict[str, float]:
  """The temperature of each stage: as asked, or the bundle's own, or the paper's."""
  paper = CascadeOptions()
  defaults = {name: getattr(paper, name).temperature for name in STAGE_NAMES}
  given = {name: value for name, value in asked.items() if value is not None}
  return defaults | dict(bundle.temperatures) | given


def check_prompt(waveform: Float[np.ndarray, "*batch samples"], rate: int, name: str) -> None:
  """Raises `AudioError` where a prompt is too short or silent."""
  audio.check_length(waveform.shape[-1], rate, LEAST_PROMPT_SECONDS, name)
  audio.check_not_silent(waveform, name)


def at_bundle_rate(
  bundle: Bundle, waveform: Num[np.ndarray, "*batch samples"], sample_rate: int
) -> Float[np.ndarray, "*batch samples"]:
  """A waveform of any number type and rate as the bundle's models take it."""
  waveform = audio.as_waveform(waveform)
  if waveform.ndim not in (1, 2):
    raise AudioError(
      f"the waveform has shape {waveform.shape}; give [samples], or [batch, samples]"
    )
  return audio.resample(waveform, sample_rate, bundle.sample_rate)


def _prepared_prompt(
  bundle: Bundle, waveform, sample_rate: int | None, mode: Mode, seconds: float | None
) -> Float[np.ndarray, "prompts samples"]:
  if mode is Mode.UNCONDITIONAL:
    if waveform is not None:
      raise UserError("unconditional mode takes no prompt; pass None as the waveform")
    return np.zeros((1, 0), np.float32)
  if waveform is None or sample_rate is None:
    raise UserError(f"{mode.value} mode needs a prompt: a waveform and its sample rate")
  waveform = np.asarray(waveform)
  if seconds is not None:
    waveform = waveform[..., : max(1, round(seconds * sample_rate))]
  prompt = at_bundle_rate(bundle, waveform, sample_rate)
  check_prompt(prompt, bundle.sample_rate, "the prompt")
  return prompt.reshape(-1, prompt.shape[-1])


def _prompt_tokens(
  bundle: Bundle, prompt: Float[np.ndarray, "prompts samples"], *, whole_steps: bool
) -> Encoded:
  if whole_steps:
    step = math.lcm(bundle.semantic.spec.hop_length, bundle.codec.spec.hop_length)
    prompt = prompt[:, : prompt.shape[1] // step * step]
  # One by one, as clips are decoded.
  return Encoded(
    np.stack([bundle.semantic.tokenize_long(row) for row in prompt]),
    np.stack([bundle.codec.encode_long(row) for row in prompt]),
  )


def _sample(
  bundle: Bundle, mode: Mode, tokens: Encoded, num_frames: int, **settings
) -> CascadeResult:
  match mode:
    case Mode.UNCONDITIONAL:
      return bundle.cascade.unconditional(num_frames=num_frames, **settings)
    case Mode.RESYNTHESIS:
      return bundle.cascade.resynthesis(tokens.semantic, num_frames=num_frames, **settings)
    case Mode.CONTINUATION:
      return bundle.cascade.continuation(
        tokens.semantic, tokens.codes, num_frames=num_frames, **settings
      )


def _leading_axes(waveform, prompts: int, num_samples: int) -> tuple[int, ...]:
  batch = (prompts,) if waveform is not None and np.ndim(waveform) == 2 else ()
  return batch + ((num_samples,) if num_samples > 1 else ())


def _member(kind: type[Choice], value: str, name: str) -> Choice:
  try:
    return kind(value)
  except ValueError:
    raise UserError(f"{name} {value!r} is not one of {', '.join(kind)}") from None


def _check_numbers(
  mode: Mode,
  duration: float | None,
  prompt_seconds: float | None,
  num_samples: int,
  seed: int,
) -> None:
  if duration is None and mode is not Mode.RESYNTHESIS:
    raise UserError(f"{mode.value} mode needs a duration: the seconds of new sound")
  if duration is not None and not 0 < duration <= LONGEST_SECONDS:
    raise UserError(f"duration {duration:g} is not in (0, {LONGEST_SECONDS:g}] seconds")
  if prompt_seconds is not None and not prompt_seconds > 0:
    raise UserError(f"prompt_seconds {prompt_seconds:g} must be more than 0")
  if num_samples < 1:
    raise UserError(f"num_samples {num_samples} must be 1 or more")
  if not 0 <= seed < 2**32:
    raise UserError(f"seed {seed} is not in 0..{2**32 - 1}")


def _check_stages(bundle: Bundle, mode: Mode) -> None:
  if "coarse" not in bundle.stages:
    raise BundleError(
      f"the bundle {bundle.name} has no stages to sample with, it only encodes and decodes; "
      "train stages and export them with export_bundle"
    )
  uses_semantic = bundle.stages["coarse"].spec.uses_semantic
  if mode is Mode.RESYNTHESIS and not uses_semantic:
    raise BundleError(f"the bundle {bundle.name} has no semantic tokens to keep in resynthesis")
  if mode is not Mode.RESYNTHESIS and uses_semantic and "semantic" not in bundle.stages:
    raise BundleError(f"the bundle {bundle.name} has no semantic stage; it can resynthesize only")
