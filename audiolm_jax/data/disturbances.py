"""Disturbances of speech recordings: whispering, faster speech, and noise."""

from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from scipy import signal  # pyright: ignore[reportMissingTypeStubs]: it has no annotations

Rng = np.random.Generator
_ORDER = 18  # order of the linear prediction, for the formants of speech up to 8 kHz
_signal: Any = signal  # the transforms of scipy.signal have no annotations
_WINDOW, _HOP = 512, 128  # samples at 16 kHz: 32 and 8 ms
_FLOOR = 1e-12  # lowest power of a bin, equivalent to noise of -95 dB
_LOWEST = 60.0  # Hz; lower frequencies of noise would be inaudible, but increase its power


def whispered(waveform: Float[np.ndarray, "samples"], rng: Rng) -> Float[np.ndarray, "samples"]:
  """Returns whispered speech: noise with the spectral envelope and level of each speech frame.

  Args:
    waveform: speech at 16 kHz.
    rng: random generator of the noise.
  """
  speech = _spectrum(waveform)
  noise = _spectrum(rng.standard_normal(len(waveform)).astype(np.float32))
  power = np.abs(speech) ** 2 + _FLOOR
  shaped = noise * _envelopes(power)
  shaped *= np.sqrt(power.sum(0) / (np.abs(shaped) ** 2).sum(0))
  return _waveform(shaped)[: len(waveform)]


def fast(waveform: Float[np.ndarray, "samples"], factor: float) -> Float[np.ndarray, "fewer"]:
  """Returns speech with its duration divided by `factor` and with unchanged pitch."""
  import librosa

  stretched = librosa.effects.time_stretch(waveform, rate=factor, n_fft=_WINDOW, hop_length=_HOP)
  return stretched.astype(np.float32)


def noisy(
  waveform: Float[np.ndarray, "samples"], noise: Float[np.ndarray, "samples"], snr: float
) -> Float[np.ndarray, "samples"]:
  """Returns speech with added noise, scaled down if the sum exceeds full scale.

  Args:
    waveform: the speech.
    noise: the noise; it is scaled to obtain the ratio `snr`.
    snr: signal-to-noise ratio in dB.
  """
  power = np.mean(np.square(noise, dtype=np.float64))
  level = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) / power / 10 ** (snr / 10))
  mixed = waveform + level * noise
  return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def coloured_noise(samples: int, slope: float, rng: Rng) -> Float[np.ndarray, "samples"]:
  """Returns noise at 16 kHz with a power spectrum proportional to 1 / frequency ** `slope`.

  Frequencies below 60 Hz are absent.

  Args:
    samples: number of samples.
    slope: 0 for white, 1 for pink, 2 for brown noise.
    rng: random generator of the noise.
  """
  spectrum = np.fft.rfft(rng.standard_normal(samples))
  frequency = np.fft.rfftfreq(samples, 1 / 16_000)
  gain = np.where(frequency < _LOWEST, 0.0, np.maximum(frequency, _LOWEST) ** (-slope / 2))
  return np.fft.irfft(spectrum * gain, samples).astype(np.float32)


def _spectrum(waveform: Float[np.ndarray, "samples"]) -> Complex[np.ndarray, "bins frames"]:
  return _signal.stft(waveform, nperseg=_WINDOW, noverlap=_WINDOW - _HOP)[2]


def _waveform(spectrum: Complex[np.ndarray, "bins frames"]) -> Float[np.ndarray, "samples"]:
  return _signal.istft(spectrum, nperseg=_WINDOW, noverlap=_WINDOW - _HOP)[1].astype(np.float32)


def _envelopes(power: Float[np.ndarray, "bins frames"]) -> Float[np.ndarray, "bins frames"]:
  """Returns the spectral envelope of each frame by linear prediction, up to a scale factor."""
  correlation = np.fft.irfft(power, axis=0)[: _ORDER + 1].T
  lags = np.abs(np.subtract.outer(np.arange(_ORDER), np.arange(_ORDER)))
  matrices = correlation[:, lags]
  # A small share of white noise keeps the filter stable in frames of few harmonics.
  matrices += 1e-4 * correlation[:, :1, None] * np.eye(_ORDER)
  predictors = np.linalg.solve(matrices, correlation[:, 1:, None])[..., 0]
  filters = np.concatenate([np.ones((len(predictors), 1)), -predictors], axis=1)
  return 1 / np.abs(np.fft.rfft(filters, _WINDOW, axis=1)).T
