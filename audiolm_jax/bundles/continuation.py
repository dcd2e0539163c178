"""Continues audio: encodes the prompt, samples tokens with the stages, and decodes them."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

import numpy as np
from jaxtyping import Float, Int, Num
from numpy.typing import ArrayLike

from audiolm_jax.bundles.audio_stream import AudioStream
from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.bundles.settings import (
  Mode,
  PromptAudio,
  Settings,
  check_names,
  check_seconds,
  is_list_of_prompts,
  options_of,
  prepared_prompts,
  watermark_strength,
)
from audiolm_jax.core import arguments, ranges
from audiolm_jax.core.configs import shown
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.core.streams import CODES, SEMANTIC, Record
from audiolm_jax.io.encoded import Encoded
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Continuation:
  """Sampled audio with its tokens and timings.

  Attributes:
    waveform: the audio in [-1, 1]; the last axis is time. A batch of prompts adds a first axis.
      `num_samples` above 1 adds an axis before time.
    sample_rate: Hz.
    tokens: tokens of the whole clip; the tokens of the prompt or voice come first. Semantic tokens
      have no repeats if the stages collapse repeats.
    prompt_samples: number of audio samples at the start of each clip that belong to the prompt.
    new_seconds: seconds of new audio in all clips of `waveform` together.
    timings: seconds by step. The steps are "encode", the names of the stages, "retokenize" (sampled
      codes are tokenized again) and "decode"; some can be absent.
    watermark: strength of the watermark in the sampled codes; 0 for no watermark.
  """

  waveform: Float[np.ndarray, "*batch samples"]
  sample_rate: int
  tokens: Encoded
  prompt_samples: int
  new_seconds: float
  timings: dict[str, float]
  watermark: float = 0.0


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
  # Clips are decoded one at a time, so that a clip does not depend on other clips of its batch, and
  # one compiled program decodes any number of clips.
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
  if is_list_of_prompts(waveform):
    return [result(prompt, prompt + 1, ()) for prompt in range(count)]
  return result(0, count, (count,) if request.is_batch else ())


def stream(
  bundle: Bundle,
  waveform: Num[np.ndarray, "*channels samples"] | None = None,
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


@dataclasses.dataclass(frozen=True)
class Output:
  """The part of one decoded clip that is returned.

  Attributes:
    samples: number of samples of the whole clip, including the prompt or voice.
    made: number of new samples of the clip.
    original: original samples of the prompt, which replace the decoded samples; None to keep the
      decoded samples.
    hidden: number of samples at the start of the clip that are omitted.
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
    """Returns the part of a decoded piece that belongs to the output.

    Args:
      waveform: the decoded piece.
      start: index of the first sample of the piece in the clip.
    """
    shown = np.clip(waveform[: max(0, self.samples - start)], -1.0, 1.0)
    if self.original is not None:
      true = self.original[start : start + len(shown)]
      shown[: len(true)] = true
    return shown[max(0, self.hidden - start) :]


_Rehearse = Callable[[Cascade, list[Clip], CascadeOptions], None]


class _Request(NamedTuple):
  """Checked settings and encoded prompts.

  Attributes:
    clips: the clip to sample for each prompt.
    outputs: the part to return for each prompt.
    seed: random seed.
    options: options of sampling by stage.
    watermark: strength of the watermark; 0 for no watermark.
    is_batch: whether the prompts are one array [batch, samples].
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
  check_names(settings, Settings.__optional_keys__)
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
  duration, prompt_seconds = check_seconds(mode, settings, bundle.sample_rate)
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

  def prepared(
    given: ArrayLike, seconds: float | None, axes: int, name: str
  ) -> tuple[list[np.ndarray], bool]:
    axis = settings.get("channel_axis")
    return prepared_prompts(bundle, given, sample_rate, seconds, axis, axes, name)

  speaker = np.zeros(0, np.float32)
  if voice is not None:
    (speaker,), _ = prepared(voice, prompt_seconds, 1, "the voice")
    speaker = whole_steps(bundle, speaker)
  given = _expected_clip(bundle, speaker, 0).prompt
  seconds = duration if mode is Mode.RESYNTHESIS else prompt_seconds
  prompts, is_batch = prepared(waveform, seconds, most_axes, "the prompt")
  wholes: list[np.ndarray] = []
  expected: list[Clip] = []
  outputs: list[Output] = []
  for prompt in prompts:
    if mode is Mode.RESYNTHESIS:
      frames = -(-len(prompt) // hop)
      # The last codec frame may extend past the last semantic token of the audio.
      wholes.append(np.pad(prompt, (0, frames * hop - len(prompt))))
      content = _expected_clip(bundle, wholes[-1], frames)
      expected.append(resynthesized(given, content.prompt[SEMANTIC], frames))
      total = len(speaker) + len(prompt)
      outputs.append(Output(total, len(prompt), hidden=len(speaker)))
    else:
      wholes.append(whole_steps(bundle, prompt))
      expected.append(_expected_clip(bundle, wholes[-1], -(-(len(prompt) + new) // hop)))
      original = prompt if prompt_audio is PromptAudio.ORIGINAL else None
      hidden = len(prompt) if prompt_audio is PromptAudio.NONE else 0
      outputs.append(Output(len(prompt) + new, new, original, hidden))
  _make_ready(bundle, expected, options, rehearse)
  resynthesis = mode is Mode.RESYNTHESIS
  clips: list[Clip] = []
  if len(speaker):
    given = tokens_of(bundle, speaker)
  for clip, whole in zip(expected, wholes, strict=True):
    if resynthesis:
      semantic = bundle.semantic.tokenize_long(whole)
      clips.append(resynthesized(given, semantic, len(whole) // hop))
    else:
      clips.append(Clip(clip.num_frames, tokens_of(bundle, whole)))
  return _Request(clips, outputs, seed, options, strength, is_batch)


def whole_steps(
  bundle: Bundle, waveform: Float[np.ndarray, "samples"]
) -> Float[np.ndarray, "whole"]:
  """Returns the waveform, cut at its end to whole semantic tokens and whole codec frames."""
  step = math.lcm(bundle.semantic.spec.hop_length, bundle.codec.spec.hop_length)
  return waveform[: len(waveform) // step * step]


def tokens_of(bundle: Bundle, waveform: Float[np.ndarray, "samples"]) -> dict[str, np.ndarray]:
  """Returns the semantic tokens and the codes of a waveform, by the keys of their streams."""
  return {
    SEMANTIC: np.asarray(bundle.semantic.tokenize_long(waveform)),
    CODES: np.asarray(bundle.codec.encode_long(waveform)),
  }


def resynthesized(voice: Record, content: Int[np.ndarray, "steps"], frames: int) -> Clip:
  """Returns a clip with given semantic tokens: first of the voice, then of the content.

  Args:
    voice: semantic tokens and codes of the voice; empty arrays for no voice.
    content: semantic tokens of the content.
    frames: number of codec frames of the content.
  """
  semantic = np.concatenate([voice[SEMANTIC], content])
  total = len(voice[CODES]) + frames
  return Clip(total, prompt={CODES: voice[CODES]}, given={SEMANTIC: semantic})


def _expected_clip(bundle: Bundle, prompt: Float[np.ndarray, "samples"], frames: int) -> Clip:
  """Returns a clip for `Cascade.rehearsal`, with random tokens for the prompt.

  Args:
    bundle: the bundle that samples.
    prompt: the waveform of the prompt.
    frames: number of codec frames of the whole clip.
  """
  random = np.random.default_rng(0)
  codec, steps = bundle.codec.spec, -(-len(prompt) // bundle.semantic.spec.hop_length)
  semantic = random.integers(bundle.semantic.spec.num_clusters, size=steps, dtype=np.int32)
  shape = -(-len(prompt) // codec.hop_length), codec.num_quantizers
  codes = random.integers(codec.codebook_size, size=shape, dtype=np.int32)
  return Clip(frames, {SEMANTIC: semantic, CODES: codes})


def _make_ready(
  bundle: Bundle, clips: list[Clip], options: CascadeOptions, rehearse: _Rehearse
) -> None:
  """Starts to load or compile, in the background, the programs that sample and decode the clips.

  Does nothing if `Cascade.rehearsal` returns None, for example because stages collapse repeats: the
  lengths of all arrays must be known in advance.
  """
  rehearsal = bundle.cascade.rehearsal()
  if rehearsal is not None:
    rehearse(rehearsal, clips, options)
    for frames in {clip.num_frames for clip in clips if clip.num_frames is not None}:
      bundle.codec.prepare_decode(frames)


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
    can = ""
    if names == SEMANTIC:
      # Conditioned stages are not in the cascade, but write semantic tokens.
      speaks = any(stage.spec.writes.key == SEMANTIC for stage in bundle.stages.values())
      can = f"; it can {'speak or resynthesize' if speaks else 'resynthesize only'}"
    raise BundleError(f"the bundle {bundle.name} has no {names} stage{can}")
