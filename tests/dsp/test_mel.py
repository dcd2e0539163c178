"""Mel filter banks."""

import librosa
import numpy as np
import pytest

from audiolm_jax.dsp.mel import Sides, hertz_to_mel, mel_filterbank, mel_to_hertz


def test_filters_equal_those_of_librosa():
  expected = librosa.filters.mel(
    sr=16_000, n_fft=1024, n_mels=40, fmin=50.0, fmax=7_000.0, htk=True, norm=None
  )
  found = mel_filterbank(513, 40, 16_000, min_frequency=50.0, max_frequency=7_000.0)
  np.testing.assert_allclose(found, expected.T, atol=1e-5)


@pytest.mark.parametrize("sides", Sides)
def test_filters_rise_in_frequency_and_overlap_with_their_neighbours_only(sides):
  filters = mel_filterbank(513, 32, 16_000, sides=sides)
  assert np.all(np.diff(np.argmax(filters, axis=0)) > 0)
  assert np.all((filters > 0).sum(axis=1) <= 2)


def test_neighbours_with_straight_sides_sum_to_one():
  filters = mel_filterbank(513, 32, 16_000, sides=Sides.MEL)
  peaks = np.argmax(filters, axis=0)
  np.testing.assert_allclose(filters[peaks[0] : peaks[-1]].sum(axis=1), 1.0, rtol=1e-9)


def test_mels_and_hertz_are_inverse():
  frequencies = np.array([0.0, 440.0, 1_000.0, 7_600.0])
  np.testing.assert_allclose(mel_to_hertz(hertz_to_mel(frequencies)), frequencies, atol=1e-8)
  assert abs(hertz_to_mel(1_000.0) - 1_000.0) < 0.1
