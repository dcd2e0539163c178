"""Distances between a waveform and its reconstruction."""

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
  """Mean absolute difference of log-mel spectra in dB, over windows of 256 to 2048 samples.

  Levels below -80 dB of a full-scale sine count as -80 dB, so that silence is no distance.

  Source: the multi-scale spectral loss of SoundStream, section III-E, log term, as L1 in dB.
  """
  _check_pair(reference, estimate)
  distances = []
  for window, bins in zip(MEL_WINDOWS, MEL_BINS, strict=True):
    one = log_mel(reference, sample_rate, window, window // 4, bins)
    other = log_mel(estimate, sample_rate, window, window // 4, bins)
    distances.append(np.abs(one - other).mean())
  return float(np.mean(distances))


def log_mel(
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  window_length: int,
  hop_length: int,
  num_bins: int,
) -> Float[np.ndarray, "frames bins"]:
  """Mel magnitudes in dB of a full-scale sine, Hann window, never below -80 dB."""
  magnitudes = spectrogram(waveform, window_length, hop_length)
  mel = magnitudes @ _mel_filters(sample_rate, window_length, num_bins)
  return 20 * np.log10(np.maximum(mel, 10 ** (MEL_FLOOR_DB / 20)))


def spectrogram(
  waveform: Float[np.ndarray, " samples"], window_length: int, hop_length: int
) -> Float[np.ndarray, "frames bins"]:
  """Magnitudes of centred frames; a full-scale sine has about 1 at its frequency."""
  padded = np.pad(np.asarray(waveform, np.float32), window_length // 2)
  padded = np.pad(padded, (0, max(0, window_length - len(padded))))
  frames = np.lib.stride_tricks.sliding_window_view(padded, window_length)[::hop_length]
  window = np.hanning(window_length + 1)[:-1].astype(np.float32)
  return np.abs(np.fft.rfft(frames * window, axis=-1)) * (2 / window.sum())


def si_sdr(
  reference: Float[np.ndarray, " samples"], estimate: Float[np.ndarray, " samples"]
) -> float:
  """Scale-invariant signal-to-distortion ratio in dB; NaN for a silent reference.

  Source: Le Roux et al., SDR - half-baked or well done?, equation 5; means removed first.
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
  """Short-time objective intelligibility, 0 to 1; NaN where under 0.4 s is speech.

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
  """Whether package pesq is there; it is built on installation and therefore an extra."""
  return importlib.util.find_spec("pesq") is not None


def pesq_wb(
  reference: Float[np.ndarray, " samples"],
  estimate: Float[np.ndarray, " samples"],
  sample_rate: int,
) -> float:
  """Wide-band PESQ, 1.04 to 4.64, at 16 kHz; NaN where PESQ finds no utterance in the reference.

  Source: ITU-T P.862.2; package pesq.
  """
  if not pesq_installed():
    raise UserError(PESQ_MISSING)
  import pesq  # pyright: ignore[reportMissingImports]
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
  """The matrix of the DCT-II, orthonormal; its first column is constant."""
  order = np.arange(count)
  matrix = np.sqrt(2 / count) * np.cos(np.pi / count * (order[:, None] + 0.5) * order)
  matrix[:, 0] /= np.sqrt(2)
  return matrix


def _check_pair(reference: np.ndarray, estimate: np.ndarray) -> None:
  if reference.shape != estimate.shape or reference.ndim != 1:
    raise ValueError(f"the pair has shapes {reference.shape} and {estimate.shape}; give [samples]")


@functools.lru_cache(maxsize=32)
def _mel_filters(
  sample_rate: int, window_length: int, num_bins: int
) -> Float[np.ndarray, "fft_bins bins"]:
  import librosa

  weights = librosa.filters.mel(
    sr=sample_rate, n_fft=window_length, n_mels=num_bins, norm=None, dtype=np.float32
  )
  return np.ascontiguousarray(weights.T)
