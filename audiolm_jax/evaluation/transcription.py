"""Approximate transcription of piano music without training."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.evaluation.signal import spectrogram

LOWEST_KEY, HIGHEST_KEY = 21, 108  # MIDI numbers of the keyboard's ends
_WINDOW_SECONDS = 0.128
_HOPS_PER_WINDOW = 4
_PARTIALS = 24
_PARTIAL_DECAY = 1.5  # the k-th partial has k ** -1.5 of the magnitude of the first partial
_UPDATES = 30
_FLOOR = 1e-6  # minimum magnitude, to avoid a division by 0
_QUIETEST = 1e-4  # minimum activity of a key that sounds
_SOUNDING = 0.3  # minimum activity relative to the strongest key in the loud frames
_RISE = 0.3  # minimum rise within 3 hops at an onset, relative to the activity of the key
_LOUD_QUANTILE = 0.95


class Transcription(NamedTuple):
  """Notes in the order of their onsets.

  Attributes:
    onsets: onset of each note in seconds.
    pitches: MIDI number of each note.
  """

  onsets: Float[np.ndarray, " notes"]
  pitches: Int[np.ndarray, " notes"]


def transcribe(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> Transcription:
  """Returns the notes of piano music, accurate enough for averages over many notes only.

  Each spectrum is decomposed into fixed harmonic combs, one for each of 88 keys. A note begins when
  the activity of a key rises. For rendered piano pieces of 10 s, precision is about
  two thirds and recall about three quarters, with a tolerance of 0.1 s. Neighbouring low keys are
  often confused.

  Args:
    waveform: piano music, tuned to A = 440 Hz.
    sample_rate: sample rate in Hz.

  Source:
    Lee and Seung, Algorithms for non-negative matrix factorization, 2001, the update for the
    divergence, with the dictionary held fixed; Raczynski, Ono and Sagayama, Multipitch analysis
    with harmonic nonnegative matrix approximation, 2007, for combs as a dictionary.
  """
  activity = key_activity(waveform, sample_rate)
  loud = float(np.quantile(activity.max(axis=0), _LOUD_QUANTILE))
  sounding = activity > max(_SOUNDING * loud, _QUIETEST)
  before = np.pad(activity, ((0, 0), (3, 0)))[:, :-3]
  rise = activity - before
  steepest = rise >= _running_maximum(rise, 3)
  keys, frames = np.nonzero(sounding & steepest & (rise > _RISE * activity))
  order = np.argsort(frames, kind="stable")
  return Transcription(frames[order] * _hop(sample_rate) / sample_rate, keys[order] + LOWEST_KEY)


def key_activity(
  waveform: Float[np.ndarray, " samples"], sample_rate: int
) -> Float[np.ndarray, "keys frames"]:
  """Returns the activity of each key: the weight of its comb in each spectrum; the hop is 32 ms."""
  hop = _hop(sample_rate)
  window = hop * _HOPS_PER_WINDOW
  spectrum = spectrogram(waveform, window, hop).T
  combs = _combs(sample_rate, window)
  activity = np.full((combs.shape[1], spectrum.shape[1]), spectrum.mean() + 1e-9, np.float32)
  for _ in range(_UPDATES):
    activity *= combs.T @ (spectrum / (combs @ activity + _FLOOR))
  return activity


@functools.lru_cache(maxsize=4)
def _combs(sample_rate: int, window: int) -> Float[np.ndarray, "bins keys"]:
  """Returns the harmonic comb of each key: partials as wide as a Hann window's lobe, with sum 1."""
  bins = np.arange(window // 2 + 1)[:, None]
  pitch = 440.0 * 2 ** ((np.arange(LOWEST_KEY, HIGHEST_KEY + 1) - 69) / 12)
  combs = np.zeros((len(bins), len(pitch)))
  for partial in range(1, _PARTIALS + 1):
    distance = np.abs(bins - partial * pitch * window / sample_rate)
    lobe = np.cos(np.pi / 4 * np.minimum(distance, 2.0)) ** 2
    combs += partial**-_PARTIAL_DECAY * lobe
  # At a low sample rate, the highest keys have no bins.
  return (combs / np.maximum(combs.sum(axis=0), 1e-9)).astype(np.float32)


def _running_maximum(
  values: Float[np.ndarray, "rows frames"], reach: int
) -> Float[np.ndarray, "rows frames"]:
  padded = np.pad(values, ((0, 0), (reach, reach)), constant_values=-np.inf)
  return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1).max(axis=-1)


def _hop(sample_rate: int) -> int:
  return round(_WINDOW_SECONDS * sample_rate / _HOPS_PER_WINDOW)
