"""Synthesizes speech with external commands that read text and write an audio file."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]: its types are in the module
from jaxtyping import Float

from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.io import audio

PEAK = 0.5
_SILENT_BELOW = 10 ** (-55 / 20)  # amplitude relative to the peak; quieter ends are removed
_SHORTEST = 0.2  # seconds; shorter speech cannot be a sentence
_TIMEOUT = 300  # seconds per text


class SpeechError(Exception):
  """Raised when an engine cannot synthesize a text."""


@dataclasses.dataclass(frozen=True)
class Engine:
  """A speech synthesizer.

  Attributes:
    command: command line with placeholders in braces, see `placeholders`.
    voices: default voices, which are used if only the engine is named.
    licence: licence of the engine and its voices.
    install: instruction to install the engine, for an error message.
  """

  command: str
  voices: tuple[str, ...] = ("",)
  licence: str = "not stated"
  install: str = "install it, or give its path"


@dataclasses.dataclass(frozen=True)
class EngineVoice:
  """One voice of an engine."""

  engine: str
  voice: str

  @property
  def name(self) -> str:
    """The name of the speaker: ENGINE-VOICE, or ENGINE if the voice has no name."""
    return f"{self.engine}-{self.voice}" if self.voice else self.engine


ENGINES: Mapping[str, Engine] = {
  "hibari": Engine(
    "hibari --voice {voice} --speed {tempo} --seed {seed} -o {wav}",
    ("heart",),  # emma, fable, fenrir and kore are downloaded on first use
    "hibari-tts (Apache-2.0), distilled from Kokoro-82M (Apache-2.0)",
    "pip install hibari-tts",
  ),
  "flite": Engine(
    "flite -voice {voice} --setf duration_stretch={stretch} -f {text_file} -o {wav}",
    ("slt", "rms", "awb", "kal16"),
    "flite, CMU",
    "apt install flite",
  ),
  "festival": Engine(
    'text2wave -eval "(begin (voice_{voice}) (Parameter.set \'Duration_Stretch {stretch}))"'
    " {text_file} -o {wav}",
    ("ked_diphone",),
    "festival, CSTR/CMU",
    "apt install festival festvox-kdlpc16k",
  ),
  "espeak-ng": Engine(
    "espeak-ng -v {voice} -s {words_per_minute} -f {text_file} -w {wav}",
    tuple(
      f"{accent}+{variant}"
      for accent in ("en-gb", "en-us", "en-gb-scotland", "en-029")
      for variant in ("m1", "m3", "m7", "Michael", "f2", "f4", "Annie", "linda")
    ),
    "espeak-ng",
    "apt install espeak-ng",
  ),
}


def parse_voices(names: Sequence[str], engines: Mapping[str, Engine]) -> list[EngineVoice]:
  """Returns the voices that a list names, without duplicates.

  Args:
    names: names of voices as ENGINE:VOICE, or ENGINE for the default voices of an engine.
    engines: known engines by name.

  Raises:
    UserError: an engine is unknown.
  """
  voices: list[EngineVoice] = []
  for name in names:
    engine, _, voice = name.strip().partition(":")
    if engine not in engines:
      raise UserError(
        f"{name!r} is not an engine; the engines are {', '.join(engines)}, and --engine_command "
        "adds others"
      )
    voices += [EngineVoice(engine, v) for v in ([voice] if voice else engines[engine].voices)]
  return list(dict.fromkeys(voices))


def check_engine(name: str, engine: Engine) -> None:
  """Raises `UserError` if the command of an engine is invalid or not installed."""
  arguments = _arguments(name, engine, placeholders("clip.wav", "", "", "", 0, 1.0))
  if "{wav}" not in engine.command:
    raise UserError(f"the command of {name} needs {{wav}}, the file to write: {engine.command}")
  if not shutil.which(arguments[0]):
    raise UserError(f"{name}: the command {arguments[0]!r} is not found; {engine.install}")


def placeholders(
  wav: str, text: str, text_file: str, voice: str, seed: int, tempo: float
) -> dict[str, str]:
  """Returns the values of all placeholders that the command of an engine may contain, by name.

  Args:
    wav: path of the audio file to write.
    text: text to speak.
    text_file: path of a file that contains the text.
    voice: name of the voice.
    seed: random seed.
    tempo: tempo of the speech, relative to the default of the engine.
  """
  return {
    "wav": wav,
    "text": text,
    "text_file": text_file,
    "voice": voice,
    "seed": str(seed),
    "tempo": f"{tempo:g}",
    "stretch": f"{1 / tempo:.3f}",
    "words_per_minute": f"{165 * tempo:.0f}",
  }


def speak(
  name: str, engine: Engine, voice: str, text: str, seed: int = 0, tempo: float = 1.0
) -> tuple[Float[np.ndarray, " samples"], int]:
  """Synthesizes a text with the command of an engine.

  Args:
    name: name of the engine, for error messages.
    engine: the engine.
    voice: name of the voice.
    text: text to speak.
    seed: random seed.
    tempo: tempo of the speech, relative to the default of the engine.

  Returns:
    The waveform and its sample rate in Hz.

  Raises:
    SpeechError: the command failed or wrote no audio file, or the audio is silent.
    UserError: the command has an unknown placeholder or invalid quotation marks.
  """
  with tempfile.TemporaryDirectory() as folder:
    wav, text_file = Path(folder, "clip.wav"), Path(folder, "clip.txt")
    text_file.write_text(text + "\n", encoding="utf-8")
    values = placeholders(str(wav), text, str(text_file), voice, seed, tempo)
    command = _arguments(name, engine, values)
    try:
      done = subprocess.run(
        command,
        input=f"{text}\n".encode(),
        capture_output=True,
        check=False,
        timeout=_TIMEOUT,
        env={"OMP_NUM_THREADS": "1"} | os.environ,  # several commands share the machine
      )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
      raise SpeechError(f"{command[0]}: {error}") from error
    if done.returncode or not wav.exists():
      lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
      wrote = "failed" if done.returncode else "wrote no WAV file"
      reason = f": {lines[-1][:300]}" if lines else ""
      raise SpeechError(f"{command[0]} {wrote} (exit code {done.returncode}){reason}")
    try:
      waveform, rate = audio.read_audio(wav)
      audio.check_not_silent(waveform, str(wav))
    except AudioError as error:
      raise SpeechError(str(error).replace(str(wav), f"what {command[0]} wrote")) from error
  return waveform, rate


def finish(
  waveform: Float[np.ndarray, " samples"], rate: int, to_rate: int, speed: float = 1.0
) -> Float[np.ndarray, " finished"]:
  """Resamples speech, removes its DC offset, cuts its silent ends, and scales its peak to 0.5.

  At most 0.1 s of silence remains at each end.

  Args:
    waveform: the speech.
    rate: sample rate of `waveform`, in Hz.
    to_rate: sample rate of the result, in Hz.
    speed: factor that scales pitch, formants and tempo together.

  Raises:
    SpeechError: the speech is silent except for its DC offset, or it is shorter than 0.2 s without
      its silent ends.
  """
  # Resampling would convert a DC offset to a step at both ends.
  waveform = soxr.resample(waveform - waveform.mean(), rate * speed, to_rate, quality="HQ")
  peak = np.abs(waveform).max()
  loud = np.flatnonzero(np.abs(waveform) > _SILENT_BELOW * peak)
  if not loud.size:
    raise SpeechError("the audio is silent: all of its samples are equal")
  seconds = (loud[-1] - loud[0]) / to_rate
  if seconds < _SHORTEST:
    raise SpeechError(f"{seconds:.2f} s of audio is too short for a sentence")
  margin = to_rate // 10
  waveform = waveform[max(0, loud[0] - margin) : loud[-1] + 1 + margin]
  return (waveform * (PEAK / peak)).astype(np.float32)


def _arguments(name: str, engine: Engine, values: Mapping[str, str]) -> list[str]:
  try:
    words = shlex.split(engine.command)
    return [re.sub(r"\{(\w+)\}", lambda match: values[match[1]], word) for word in words]
  except ValueError as error:
    raise UserError(f"the command of {name}: {error}: {engine.command}") from error
  except KeyError as error:
    known = ", ".join(f"{{{word}}}" for word in values)
    raise UserError(
      f"the command of {name} contains {{{error.args[0]}}}, which is not one of {known}"
    ) from error
