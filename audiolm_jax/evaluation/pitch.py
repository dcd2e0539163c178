"""Fundamental frequency by autocorrelation."""

import numpy as np
from jaxtyping import Float

HOP_SECONDS = 0.01
_PERIODS = 3  # periods of the lowest pitch in a window
_OCTAVE_COST = 0.02  # penalty per octave of lag, so that the shorter of two equal lags is best
_SILENCE_DB = -40.0


def pitch_track(
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  *,
  lowest: float = 65.0,
  highest: float = 450.0,
  voicing: float = 0.5,
) -> Float[np.ndarray, " frames"]:
  """Returns the pitch in Hz every 10 ms; NaN for unvoiced frames.

  Frames below -80 dB, or 40 dB below the loudest frame, are unvoiced.

  Args:
    waveform: the samples.
    sample_rate: sample rate in Hz.
    lowest: lowest pitch in Hz.
    highest: highest pitch in Hz.
    voicing: minimum normalised autocorrelation of a voiced frame at the lag of its pitch; a
      periodic signal has 1.

  Source:
    Boersma, Accurate short-term analysis of the fundamental frequency, 1993, without the path
    search.
  """
  window_length = round(_PERIODS * sample_rate / lowest)
  hop = round(HOP_SECONDS * sample_rate)
  frames = _frames(np.asarray(waveform, np.float64), window_length, hop)
  frames = frames - frames.mean(axis=-1, keepdims=True)
  window = np.hanning(window_length + 2)[1:-1]
  size = 1 << int(np.ceil(np.log2(2 * window_length)))
  first, last = int(sample_rate / highest), int(np.ceil(sample_rate / lowest))
  correlation = _autocorrelation(frames * window, size, last + 2)
  correlation /= _autocorrelation(window[None], size, last + 2)
  lags = np.arange(first, last + 1)
  scores = correlation[:, first : last + 1] - _OCTAVE_COST * np.log2(lags / first)
  inner = scores[:, 1:-1]
  peaks = (inner >= scores[:, :-2]) & (inner > scores[:, 2:])
  best = np.where(peaks, inner, -np.inf).argmax(axis=-1) + 1
  rows = np.arange(len(frames))
  lag = lags[best] + _parabola(correlation, rows, lags[best])
  level = 20 * np.log10(np.sqrt(np.mean(frames**2, axis=-1)) + 1e-9)
  voiced = correlation[rows, lags[best]] > voicing
  voiced &= peaks.any(axis=-1) & (level > level.max() + _SILENCE_DB) & (level > -80)
  return np.where(voiced, sample_rate / lag, np.nan)


def _frames(waveform: np.ndarray, length: int, hop: int) -> Float[np.ndarray, "frames length"]:
  padded = np.pad(waveform, length // 2)
  padded = np.pad(padded, (0, max(0, length - len(padded))))
  return np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]


def _autocorrelation(
  frames: np.ndarray, size: int, num_lags: int
) -> Float[np.ndarray, "frames lags"]:
  power = np.abs(np.fft.rfft(frames, size, axis=-1)) ** 2
  correlation = np.fft.irfft(power, size, axis=-1)[:, :num_lags]
  return correlation / np.maximum(correlation[:, :1], 1e-12)


def _parabola(values: np.ndarray, rows: np.ndarray, at: np.ndarray) -> Float[np.ndarray, " frames"]:
  before, here, after = (values[rows, at + shift] for shift in (-1, 0, 1))
  bend = before - 2 * here + after
  return np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1.0), 0.0)
