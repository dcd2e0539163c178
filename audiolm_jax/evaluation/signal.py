"""Distances between a waveform and its reconstruction, and spectra for these distances."""

import functools
import importlib.util

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError

MEL_WINDOWS = (256, 512, 1024, 2048)
MEL_BINS = (20, 40, 64, 80)
MEL_FLOOR_DB = -80.0
PESQ_MISSING = "PESQ needs an extra: pip install -r requirements/evaluation.txt"


def log_mel_distance(
  reference: Float[np.ndarray, " samples"],
  estimate: Float[np.ndarray, " samples"],
  sample_rate: int,
) -> float:
  """Returns the mean absolute difference of log-mel spectra, over windows of 256 to 2048 samples.

  Levels below -80 dB relative to a full-scale sine count as -80 dB.

  Args:
    reference: the original.
    estimate: the reconstruction.
    sample_rate: sample rate of both waveforms in Hz.

  Returns:
    The distance in dB.

  Raises:
    ValueError: the waveforms are not two arrays [samples] of equal length.

  Source: the multi-scale spectral loss of SoundStream, section III-E, log term, as L1 in dB.
  """
  _check_pair(reference, estimate)
  distances = []
  for window, bins in zip(MEL_WINDOWS, MEL_BINS, strict=True):
    one = mel_decibels(reference, sample_rate, window, window // 4, bins)
    other = mel_decibels(estimate, sample_rate, window, window // 4, bins)
    distances.append(np.abs(one - other).mean())
  return float(np.mean(distances))


def mel_decibels(
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  window_length: int,
  hop_length: int,
  num_bins: int,
) -> Float[np.ndarray, "frames bins"]:
  """Returns mel magnitudes in dB relative to a full-scale sine, at least -80 dB.

  Args:
    waveform: the samples.
    sample_rate: sample rate in Hz.
    window_length: length of the Hann window in samples.
    hop_length: number of samples from frame to frame.
    num_bins: number of mel bands.
  """
  magnitudes = spectrogram(waveform, window_length, hop_length)
  mel = magnitudes @ _mel_filters(sample_rate, window_length, num_bins)
  return 20 * np.log10(np.maximum(mel, 10 ** (MEL_FLOOR_DB / 20)))


def spectrogram(
  waveform: Float[np.ndarray, " samples"], window_length: int, hop_length: int
) -> Float[np.ndarray, "frames bins"]:
  """Returns the magnitudes of centred frames; a full-scale sine has about 1 at its frequency.

  Args:
    waveform: the samples.
    window_length: length of the Hann window in samples.
    hop_length: number of samples from frame to frame.
  """
  padded = np.pad(np.asarray(waveform, np.float32), window_length // 2)
  padded = np.pad(padded, (0, max(0, window_length - len(padded))))
  frames = np.lib.stride_tricks.sliding_window_view(padded, window_length)[::hop_length]
  window = np.hanning(window_length + 1)[:-1].astype(np.float32)
  return np.abs(np.fft.rfft(frames * window, axis=-1)) * (2 / window.sum())


def si_sdr(reference: Float[np.ndarray, "_"], estimate: Float[np.ndarray, "_"]) -> float:
  """Returns the scale-invariant signal-to-distortion ratio in dB; NaN for a constant reference.

  Source: Le Roux et al., SDR - half-baked or well done?, equation 5, after the means are removed.
  """
  _check_pair(reference, estimate)
  target = np.asarray(reference, np.float64) - np.mean(reference, dtype=np.float64)
  other = np.asarray(estimate, np.float64) - np.mean(estimate, dtype=np.float64)
  energy = float(target @ target)
  if energy == 0:
    return float("nan")
  target = target * (float(other @ target) / energy)
  noise = float(np.square(other - target).sum())
  return float(10 * np.log10(max(float(target @ target), 1e-20) / max(noise, 1e-20)))


def stoi(
  reference: Float[np.ndarray, " samples"],
  estimate: Float[np.ndarray, " samples"],
  sample_rate: int,
) -> float:
  """Returns the short-time objective intelligibility, at most 1; NaN for under 0.4 s of speech.

  Source: Taal et al., An algorithm for intelligibility prediction, 2011; package pystoi.
  """
  import warnings

  import pystoi

  _check_pair(reference, estimate)
  with warnings.catch_warnings():
    warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
    try:
      return float(pystoi.stoi(reference, estimate, sample_rate))
    except RuntimeWarning:
      return float("nan")


def pesq_installed() -> bool:
  """Returns whether the package pesq is installed; it is optional, as it needs a compiler."""
  return importlib.util.find_spec("pesq") is not None


def pesq_wb(
  reference: Float[np.ndarray, " samples"],
  estimate: Float[np.ndarray, " samples"],
  sample_rate: int,
) -> float:
  """Returns wide-band PESQ at 16 kHz, 1.04 to 4.64.

  Returns NaN if no utterance is found or the waveforms are too short.

  Raises:
    UserError: the package pesq is not installed.

  Source: ITU-T P.862.2; package pesq.
  """
  if not pesq_installed():
    raise UserError(PESQ_MISSING)
  import pesq  # pyright: ignore[reportMissingImports]: an optional package
  import soxr

  _check_pair(reference, estimate)
  if not np.any(reference):
    return float("nan")
  if sample_rate != 16_000:
    reference = soxr.resample(reference, sample_rate, 16_000)
    estimate = soxr.resample(estimate, sample_rate, 16_000)
  try:
    return float(pesq.pesq(16_000, reference, estimate, "wb"))
  except (pesq.NoUtterancesError, pesq.BufferTooShortError):
    return float("nan")


def cosine_transform(count: int) -> Float[np.ndarray, "bins cepstra"]:
  """Returns the orthonormal matrix of the DCT-II, whose first column is constant."""
  order = np.arange(count)
  matrix = np.sqrt(2 / count) * np.cos(np.pi / count * (order[:, None] + 0.5) * order)
  matrix[:, 0] /= np.sqrt(2)
  return matrix


def _check_pair(reference: np.ndarray, estimate: np.ndarray) -> None:
  if reference.shape != estimate.shape or reference.ndim != 1:
    raise ValueError(
      f"the shapes {reference.shape} and {estimate.shape} differ or have several axes; give two "
      "waveforms [samples] of one length"
    )


@functools.lru_cache(maxsize=32)
def _mel_filters(
  sample_rate: int, window_length: int, num_bins: int
) -> Float[np.ndarray, "fft_bins bins"]:
  import librosa

  weights = librosa.filters.mel(
    sr=sample_rate, n_fft=window_length, n_mels=num_bins, norm=None, dtype=np.float32
  )
  return np.ascontiguousarray(weights.T)
