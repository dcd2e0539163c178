"""Samples the audio of a request piece by piece, and writes the files of the samples."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from audiolm_jax.bundles import Bundle, token_files
from audiolm_jax.bundles.audio_stream import AudioStream
from audiolm_jax.bundles.settings import PromptAudio, check_prompt, watermark_strength
from audiolm_jax.bundles.speaking import SpeechSettings
from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.demo.jobs import Job, Sample
from audiolm_jax.demo.requests import Request
from audiolm_jax.io import audio, plotting, provenance, token_file

SOUND, TOKENS, PICTURE = "sample_{}.wav", "sample_{}.npz", "sample_{}.png"
_LOOKAHEAD = 0.5  # seconds of new audio in the first window of a parallel stage


class Step(NamedTuple):
  """An update of a sample.

  Attributes:
    number: index of the sample, from 0.
    verdict: verdict of the detector on the sample; None before the last step of the sample.
  """

  number: int
  verdict: str | None


def make(bundle: Bundle, request: Request, job: Job) -> Iterator[Step]:
  """Creates the samples of a request one after the other, and adds their audio to `job`.

  Sample i equals the output of `audiolm_jax.sample` with the settings of the request, the seed
  `request.seed` + i, and a lookahead of 0.5 s for parallel stages.

  Raises:
    UserError: the prompt or the text cannot be used, or the request takes too long.
    StoppedError: the job was stopped.
  """
  prompt = None if request.prompt is None else _read_prompt(bundle, request)
  for number in range(request.num_samples):
    job.check()
    seed = request.seed + number
    stream = _stream(bundle, dataclasses.replace(request, seed=seed), prompt, job)
    sample = Sample(stream.sample_rate, stream.samples)
    job.samples.append(sample)
    yield Step(number, None)
    pieces = []
    for piece in stream:
      job.check()
      pieces.append(piece)
      sample.add(piece)
      yield Step(number, None)
    waveform = np.concatenate(pieces)
    _write(bundle, dataclasses.replace(request, seed=seed), job.folder, number, waveform, stream)
    verdict = classify(bundle, waveform)
    sample.is_complete = True
    yield Step(number, verdict)


def speech(
  bundle: Bundle, text: str, job: Job, *, longest_seconds: float, **settings: Unpack[SpeechSettings]
) -> AudioStream:
  """Returns an audio stream of a spoken text; the codes are sampled while the stream is read.

  Args:
    bundle: a bundle with a text stage.
    text: the text.
    job: job of the request, which can stop the sampling.
    longest_seconds: maximum duration of the speech in seconds.
    **settings: see `speaking.SpeechSettings`.

  Raises:
    UserError: the text or the voice cannot be used, or the speech is longer than `longest_seconds`.
    StoppedError: the job was stopped.
  """
  stream = bundle.stream_speech(text, progress=job.check, **settings)
  seconds = stream.samples / stream.sample_rate
  if seconds > longest_seconds:
    raise UserError(
      f"the speech would take {seconds:.1f} s, and {longest_seconds:g} s are allowed; shorten the "
      "text"
    )
  return stream


def speech_record(bundle: Bundle, seed: int) -> provenance.Provenance:
  """Returns the metadata for an audio file with a spoken text."""
  return _record(bundle, "speech", seed, 0.0)


def classify(bundle: Bundle, waveform: np.ndarray) -> str:
  """Returns the verdict of the bundle's detector on a whole clip, as text."""
  if bundle.detector is None:
    return "this bundle has no detector"
  try:
    found = bundle.detector.detect(waveform, bundle.sample_rate, "the sample")
  except AudioError as error:
    return f"the detector cannot classify it: {error}"
  probability = found.probability_synthetic
  return f"{'synthetic' if probability >= 0.5 else 'real'}, {probability:.3f}"


def _read_prompt(bundle: Bundle, request: Request) -> np.ndarray:
  """Reads the beginning of the prompt. Error messages contain the file name without its folder."""
  path = Path(str(request.prompt))
  try:
    waveform = audio.load_audio(path, bundle.sample_rate, seconds=request.used_prompt_seconds)
  except UserError as error:
    raise AudioError(str(error).replace(str(path), path.name)) from error
  check_prompt(waveform, bundle.sample_rate, path.name)
  return waveform


def _stream(bundle: Bundle, request: Request, prompt: np.ndarray | None, job: Job) -> AudioStream:
  settings: dict[str, Any] = {
    "prompt_seconds": request.prompt_seconds,
    "seed": request.seed,
    "temperature": {n: t for n, t in request.temperatures.items() if n in bundle.stages},
    "lookahead": {n: _LOOKAHEAD for n, s in bundle.stages.items() if s.spec.samples_windows},
  }
  rate = bundle.sample_rate
  if request.mode is None:
    settings |= {"voice": prompt, "sample_rate": rate, "longest_seconds": request.duration}
    return speech(bundle, request.text, job, **settings)
  settings |= {"mode": request.mode, "duration": request.duration}
  return bundle.stream(prompt, rate, progress=job.check, **settings)


def _write(
  bundle: Bundle,
  request: Request,
  folder: Path,
  number: int,
  waveform: np.ndarray,
  stream: AudioStream,
) -> None:
  rate, end = stream.sample_rate, stream.prompt_samples
  if request.mode is None:
    record = speech_record(bundle, request.seed)
  else:
    record = _record(bundle, request.mode.value, request.seed, end / rate)
  audio.write_audio(folder / SOUND.format(number + 1), waveform, rate, record.tags())
  if stream.tokens is not None:
    tokens = token_files.of_sample(bundle, stream.tokens.streams)
    token_file.save_tokens(folder / TOKENS.format(number + 1), tokens)
  plotting.plot_continuation(folder / PICTURE.format(number + 1), waveform, rate, end)


def _record(bundle: Bundle, mode: str, seed: int, prompt_seconds: float) -> provenance.Provenance:
  return provenance.Provenance(
    bundle=bundle.name,
    token_hash=bundle.token_hash,
    mode=mode,
    seed=seed,
    sample=0,
    prompt_seconds=prompt_seconds,
    prompt_audio=PromptAudio.CODEC.value,
    watermark=watermark_strength(bundle, None),
  )
