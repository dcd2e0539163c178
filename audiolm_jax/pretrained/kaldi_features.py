"""Kaldi's log-mel features, in the variant of SeamlessM4T and w2v-BERT 2.0.

Source: the feature `fbank` of Kaldi (Povey et al., "The Kaldi Speech Recognition Toolkit", 2011).
"""

import functools

import numpy as np
from jaxtyping import Float

from audiolm_jax.dsp.mel import Sides, mel_filterbank

SAMPLE_RATE = 16_000  # Hz
WINDOW_LENGTH = 400  # samples
HOP_LENGTH = 160  # samples
_FFT_LENGTH = 512
_LOWEST, _HIGHEST = 20.0, SAMPLE_RATE / 2  # Hz
_PREEMPHASIS = 0.97
_FULL_SCALE = 2.0**15  # Kaldi reads 16-bit integers
_FLOOR = float(np.finfo(np.float32).eps)
_EPSILON = 1e-7
_BLOCK = 2048  # frames to compute at a time, which limits memory


def standardized_log_mel(
  waveform: Float[np.ndarray, "samples"], num_mels: int
) -> Float[np.ndarray, "frames mels"]:
  """Returns log-mel features with mean 0 and variance 1 of each band over the whole clip.

  Args:
    waveform: samples in [-1, 1] at 16 kHz, at least two frames (560 samples).
    num_mels: number of bands.

  Returns:
    One frame of 400 samples per 160 samples; zeros for digital silence.
  """
  features = log_mel(waveform, num_mels)
  features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
  squares = np.einsum("fm,fm->m", features, features, dtype=np.float64)
  variance = squares / (len(features) - 1)
  features *= (1 / np.sqrt(variance + _EPSILON)).astype(np.float32)
  return features


def log_mel(
  waveform: Float[np.ndarray, "samples"], num_mels: int
) -> Float[np.ndarray, "frames mels"]:
  """Returns natural logarithms of the power in mel bands, without dither.

  Args:
    waveform: samples in [-1, 1] at 16 kHz, at least one frame (400 samples).
    num_mels: number of bands.
  """
  frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW_LENGTH)[::HOP_LENGTH]
  features = np.empty((len(frames), num_mels), np.float32)
  for start in range(0, len(frames), _BLOCK):
    block = slice(start, start + _BLOCK)
    features[block] = _log_mel_of_frames(frames[block].astype(np.float64), num_mels)
  return features


def _log_mel_of_frames(
  frames: Float[np.ndarray, "frames window"], num_mels: int
) -> Float[np.ndarray, "frames mels"]:
  frames = _FULL_SCALE * (frames - frames.mean(axis=1, keepdims=True))
  before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
  spectrum = np.fft.rfft((frames - _PREEMPHASIS * before) * _window(), _FFT_LENGTH)
  power = np.square(spectrum.real) + np.square(spectrum.imag)
  return np.log(np.maximum(power @ _mel_filters(num_mels), _FLOOR))


@functools.lru_cache
def _window() -> Float[np.ndarray, "window"]:
  """Returns Povey's window: a Hann window to the power 0.85."""
  return np.hanning(WINDOW_LENGTH) ** 0.85


@functools.lru_cache
def _mel_filters(num_mels: int) -> Float[np.ndarray, "bins mels"]:
  return mel_filterbank(
    _FFT_LENGTH // 2 + 1,
    num_mels,
    SAMPLE_RATE,
    min_frequency=_LOWEST,
    max_frequency=_HIGHEST,
    sides=Sides.MEL,
  )
