"""Degradations of recordings: compression, noise, a narrow channel."""

import io

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from audiolm_jax.io import audio

_FORMATS = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}


def compress(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, codec: str, level: float
) -> tuple[Float[np.ndarray, "samples"], float]:
  """Encodes and decodes a waveform with a lossy codec.

  Args:
    waveform: samples in [-1, 1].
    sample_rate: Hz.
    codec: "mp3" or "opus".
    level: compression level, from 0 for the highest bit rate of the codec to 1 for the lowest.
  Returns:
    The decoded waveform, and the bits per second of the file.
  """
  encoded = encode(waveform, sample_rate, codec, level)
  rate = 8 * len(encoded) * sample_rate / len(waveform)
  return decode(encoded, sample_rate, len(waveform)), rate


def encode(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, codec: str, level: float
) -> bytes:
  """Returns the file that a lossy codec encodes a waveform to; arguments as of `compress`."""
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
  """Returns the first samples of a file at `sample_rate` Hz, padded with zeros."""
  decoded, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
  if rate != sample_rate:
    decoded = soxr.resample(decoded, rate, sample_rate)
  return audio.fit_length(decoded, num_samples)


def add_noise(
  waveform: Float[np.ndarray, "samples"], snr_db: float, seed: int
) -> Float[np.ndarray, "samples"]:
  """Adds white noise.

  Args:
    waveform: samples in [-1, 1].
    snr_db: ratio of the mean power of the waveform to that of the noise, dB.
    seed: seed of the noise.
  """
  noise = np.random.default_rng(seed).standard_normal(len(waveform))
  level = np.sqrt(np.mean(np.square(waveform))) * 10.0 ** (-snr_db / 20)
  return np.clip(waveform + level * noise, -1.0, 1.0).astype(np.float32)


def narrow(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, through_rate: int
) -> Float[np.ndarray, "samples"]:
  """Resamples a waveform to another sample rate in Hz and back."""
  there = soxr.resample(waveform, sample_rate, through_rate)
  back = soxr.resample(there, through_rate, sample_rate)
  return np.pad(back[: len(waveform)], (0, max(0, len(waveform) - len(back))))
