"""Mel filter banks."""

import enum

import numpy as np
from jaxtyping import Float


class Sides(enum.Enum):
  """The frequency scale on which the sides of a triangular filter are straight lines."""

  HERTZ = "hertz"
  MEL = "mel"


def mel_filterbank(
  num_bins: int,
  num_mels: int,
  sample_rate: int,
  *,
  min_frequency: float = 0.0,
  max_frequency: float | None = None,
  sides: Sides = Sides.HERTZ,
) -> Float[np.ndarray, "bins mels"]:
  """Returns triangular filters of height 1 whose centres are equally spaced on the mel scale.

  Args:
    num_bins: number of frequency bins of the spectrum, from 0 Hz to half the sample rate.
    num_mels: number of filters.
    sample_rate: Hz.
    min_frequency: lower end of the first filter in Hz.
    max_frequency: upper end of the last filter in Hz; None for half the sample rate.
    sides: the frequency scale on which the filters are triangles.

  Source: the mel scale of the Hidden Markov Model Toolkit, 1127 ln(1 + f / 700).
  """
  nyquist = sample_rate / 2
  highest = nyquist if max_frequency is None else max_frequency
  frequencies = np.arange(num_bins) * nyquist / (num_bins - 1)
  edges = np.linspace(hertz_to_mel(min_frequency), hertz_to_mel(highest), num_mels + 2)
  if sides is Sides.MEL:
    bins = hertz_to_mel(frequencies)[:, None]
  else:
    bins, edges = frequencies[:, None], mel_to_hertz(edges)
  low, centre, high = edges[:-2], edges[1:-1], edges[2:]
  return np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))


def hertz_to_mel(frequency: float | Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
  """Converts frequencies in Hz to mels."""
  return np.asarray(2595.0 * np.log10(1.0 + np.asarray(frequency) / 700.0))


def mel_to_hertz(mel: float | Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
  """Converts mels to frequencies in Hz."""
  return np.asarray(700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0))
