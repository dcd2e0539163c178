"""Continues prompts with a bundle, for the suites that measure continuations."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.bundles.continuation import resynthesized, tokens_of, whole_steps
from audiolm_jax.bundles.settings import options_of
from audiolm_jax.core.streams import SEMANTIC
from audiolm_jax.io import audio
from audiolm_jax.io.encoded import Encoded

MAX_SOUNDS = 10  # maximum number of sounds of one suite on the page


@dataclasses.dataclass(frozen=True)
class TimedContinuation:
  """A continuation and its sampling time.

  Attributes:
    waveform: the new samples, without the prompt.
    seconds_taken: wall time of sampling in seconds.
    tokens: tokens of the prompt and the continuation; None if `waveform` was not decoded from
      tokens.
  """

  waveform: Float[np.ndarray, " samples"]
  seconds_taken: float
  tokens: Encoded | None = None


# A function of a prompt, the recording after the prompt, and a seed.
ShuffleFn = Callable[
  [Float[np.ndarray, " samples"], Float[np.ndarray, " samples"], int],
  Float[np.ndarray, " samples"],
]
# Functions of a prompt and a seed.
ContinueFn = Callable[[Float[np.ndarray, " samples"], int], TimedContinuation]
DrawFn = Callable[[Float[np.ndarray, " samples"], int], Float[np.ndarray, "draws samples"]]


def continuer(bundle: Bundle, duration: float, sample_rate: int) -> ContinueFn:
  """Returns a function that continues prompts.

  Args:
    bundle: the bundle, of any sample rate.
    duration: length of a continuation in seconds.
    sample_rate: sample rate of the prompts and of the continuations in Hz.
  """
  new_samples = round(duration * bundle.sample_rate)

  def continue_prompt(prompt: Float[np.ndarray, " samples"], seed: int) -> TimedContinuation:
    started = time.monotonic()
    result = bundle.continue_audio(
      prompt, sample_rate, duration=duration, seed=seed, prompt_seconds=None
    )
    seconds = time.monotonic() - started
    made = np.asarray(result.waveform).reshape(-1)[-new_samples:]
    made = audio.resample(made, bundle.sample_rate, sample_rate)
    return TimedContinuation(made, seconds, result.tokens)

  return continue_prompt


def shuffler(bundle: Bundle) -> ShuffleFn | None:
  """Returns a function that samples audio from shuffled semantic tokens.

  The semantic tokens of the recording after a prompt are put in random order; repeats of a token
  stay together. The acoustic stages continue the prompt with these tokens. The result has the
  voice, the sounds and the pace of the recording, but no words.

  Returns:
    The function; None if no stage reads semantic tokens.
  """
  if not bundle.cascade.reads(SEMANTIC):
    return None
  hop = bundle.codec.spec.hop_length

  def shuffle(
    prompt: Float[np.ndarray, " before"], rest: Float[np.ndarray, " after"], seed: int
  ) -> Float[np.ndarray, " samples"]:
    prompt, rest = (whole_steps(bundle, part) for part in (prompt, rest))
    tokens = bundle.semantic.tokenize_long(rest)
    runs = np.split(tokens, np.flatnonzero(np.diff(tokens)) + 1)
    order = np.random.default_rng(seed).permutation(len(runs))
    shuffled = np.concatenate([runs[i] for i in order])
    clip = resynthesized(tokens_of(bundle, prompt), shuffled, len(rest) // hop)
    options = options_of(bundle, {}, 0.0)
    (codes,) = bundle.cascade.sample([clip], seed=seed, options=options).codes
    return np.asarray(bundle.codec.decode(codes[None]))[0][len(prompt) :]

  return shuffle


def drawer(bundle: Bundle, duration: float, count: int) -> DrawFn:
  """Returns a function that samples `count` (2 or more) continuations of a prompt.

  Prompt and continuations have the bundle's sample rate.
  """

  def draw(prompt: Float[np.ndarray, " before"], seed: int) -> Float[np.ndarray, "draws samples"]:
    result = bundle.continue_audio(
      prompt,
      bundle.sample_rate,
      duration=duration,
      seed=seed,
      prompt_seconds=None,
      prompt_audio="none",
      num_samples=count,
    )
    return np.asarray(result.waveform)

  return draw


def save_sounds(
  folder: str,
  name: str,
  sounds: Sequence[Float[np.ndarray, "_"]],
  captions: Sequence[str],
  sample_rate: int,
) -> dict[str, str]:
  """Writes the first `MAX_SOUNDS` sounds as `name`_0.flac, `name`_1.flac and so on.

  Args:
    folder: output folder.
    name: beginning of the file names.
    sounds: waveforms.
    captions: caption of each sound; all captions are different.
    sample_rate: sample rate of the sounds in Hz.

  Returns:
    File names by caption, for `SuiteResult.sounds`.
  """
  files = {}
  for index, caption in enumerate(captions[:MAX_SOUNDS]):
    files[caption] = f"{name}_{index}.flac"
    audio.write_audio(os.path.join(folder, files[caption]), sounds[index], sample_rate)
  return files
