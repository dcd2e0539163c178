"""Degradations of recordings: compression, noise, music, and a lower sample rate."""

import importlib.util
import io
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from audiolm_jax.io import audio

AAC_MISSING = "AAC needs an extra: pip install -r requirements/evaluation.txt"
_AAC_DELAY = 1_024  # samples of silence that the encoder adds at the start
# The synthetic music: notes per second, partials of a note, and the range in MIDI numbers.
_NOTES, _OVERTONES, _LOWEST, _HIGHEST = 6.0, 8, 45, 81
_FORMATS = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}
_SAMPLE_RATES = {
  "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
  "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
}


def compress(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, codec: str, level: float
) -> tuple[Float[np.ndarray, "samples"], float]:
  """Encodes and decodes a waveform with a lossy codec.

  If the codec does not support the sample rate, the waveform is resampled to `codec_rate`, and
  the decoded waveform is resampled back.

  Args:
    waveform: samples in [-1, 1].
    sample_rate: sample rate of the waveform in Hz.
    codec: "mp3" or "opus".
    level: compression level, from 0 for the highest bit rate of the codec to 1 for the lowest.

  Returns:
    The decoded waveform, and the bit rate of the file in bits per second.
  """
  coded_rate, coded = codec_rate(codec, sample_rate), waveform
  if coded_rate != sample_rate:
    coded = soxr.resample(waveform, sample_rate, coded_rate)
  encoded = encode(coded, coded_rate, codec, level)
  rate = 8 * len(encoded) * sample_rate / len(waveform)
  return decode(encoded, sample_rate, len(waveform)), rate


def codec_rate(codec: str, sample_rate: int) -> int:
  """Returns the lowest sample rate of a codec that is not below `sample_rate`.

  If all sample rates of the codec are below `sample_rate`, returns its highest sample rate.

  Args:
    codec: "mp3" or "opus".
    sample_rate: sample rate in Hz.
  """
  rates = _SAMPLE_RATES[codec]
  return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def encode(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, codec: str, level: float
) -> bytes:
  """Encodes a waveform with a lossy codec and returns the content of the file.

  Args:
    waveform: samples in [-1, 1].
    sample_rate: sample rate of the waveform in Hz, which the codec must support, see `codec_rate`.
    codec: "mp3" or "opus".
    level: compression level, see `compress`.
  """
  container, subtype = _FORMATS[codec]
  encoded = io.BytesIO()
  with soundfile.SoundFile(
    encoded,
    "w",
    sample_rate,
    channels=1,
    format=container,
    subtype=subtype,
    compression_level=level,
    bitrate_mode="CONSTANT" if codec == "mp3" else None,
  ) as file:
    file.write(waveform)
  return encoded.getvalue()


def decode(encoded: bytes, sample_rate: int, num_samples: int) -> Float[np.ndarray, "num_samples"]:
  """Decodes a file to `num_samples` samples at `sample_rate` Hz, cut or padded with zeros."""
  decoded, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
  if rate != sample_rate:
    decoded = soxr.resample(decoded, rate, sample_rate)
  return audio.fit_length(decoded, num_samples)


def aac_installed() -> bool:
  """Returns whether the package av, which has an AAC encoder, is installed."""
  return importlib.util.find_spec("av") is not None


def aac(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, bits_per_second: int
) -> Float[np.ndarray, "samples"]:
  """Encodes and decodes a waveform with AAC-LC; needs the package av."""
  import av  # pyright: ignore[reportMissingImports]: an optional package

  encoded = io.BytesIO()
  with av.open(encoded, "w", format="adts") as file:
    stream: Any = file.add_stream("aac", rate=sample_rate, layout="mono")
    stream.bit_rate = bits_per_second
    samples = np.asarray(waveform, np.float32)[None]
    frame: Any = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = sample_rate
    for part in (frame, None):
      file.mux(stream.encode(part))
  encoded.seek(0)
  with av.open(encoded) as file:
    parts = [part.to_ndarray()[0] for part in file.decode(audio=0)]
  return audio.fit_length(np.concatenate(parts)[_AAC_DELAY:], len(waveform))


def add_music(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, snr_db: float, seed: int
) -> Float[np.ndarray, "samples"]:
  """Adds synthetic piano music at `sample_rate` Hz to a waveform, as `add_noise` adds noise."""
  music = piano(len(waveform), sample_rate, seed)
  level = np.sqrt(np.mean(np.square(waveform)) / np.mean(np.square(music)))
  return np.clip(waveform + level * 10.0 ** (-snr_db / 20) * music, -1.0, 1.0).astype(np.float32)


def piano(samples: int, sample_rate: int, seed: int) -> Float[np.ndarray, "samples"]:
  """Returns piano-like random notes of the C major scale; the first note begins at sample 0."""
  rng = np.random.default_rng(seed)
  scale = np.array(
    [note for note in range(_LOWEST, _HIGHEST) if note % 12 in (0, 2, 4, 5, 7, 9, 11)]
  )
  music, start = np.zeros(samples), 0
  while start < samples:
    pitch = 440.0 * 2.0 ** ((rng.choice(scale) - 69) / 12)
    time = np.arange(samples - start) / sample_rate
    for number in range(1, _OVERTONES + 1):
      if number * pitch < sample_rate / 2:
        decay = np.exp(-(1 + number) * time)
        music[start:] += decay * np.sin(2 * np.pi * number * pitch * time) / number
    start += max(1, round(rng.exponential(sample_rate / _NOTES)))
  return music.astype(np.float32)


def add_noise(
  waveform: Float[np.ndarray, "samples"], snr_db: float, seed: int
) -> Float[np.ndarray, "samples"]:
  """Adds white noise to a waveform, and clips the sum to [-1, 1].

  Args:
    waveform: samples in [-1, 1].
    snr_db: signal-to-noise ratio in dB, from mean powers.
    seed: seed of the noise.
  """
  noise = np.random.default_rng(seed).standard_normal(len(waveform))
  level = np.sqrt(np.mean(np.square(waveform))) * 10.0 ** (-snr_db / 20)
  return np.clip(waveform + level * noise, -1.0, 1.0).astype(np.float32)


def narrow(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, through_rate: int
) -> Float[np.ndarray, "samples"]:
  """Resamples a waveform from `sample_rate` to `through_rate` (both in Hz) and back."""
  there = soxr.resample(waveform, sample_rate, through_rate)
  back = soxr.resample(there, through_rate, sample_rate)
  return np.pad(back[: len(waveform)], (0, max(0, len(waveform) - len(back))))
