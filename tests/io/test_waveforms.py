"""Waveforms as callers give them."""

import pathlib

import numpy as np
import pytest

from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.io import waveforms
from tests.conftest import melody

RATE = 16_000
CLIP = melody(0.5)
STEREO = np.stack([CLIP, 0.5 * CLIP], axis=1)  # as soundfile returns it


def check(samples, **options):
  return waveforms.check(samples, RATE, **options)


@pytest.mark.parametrize(
  "samples, axis, shape",
  [
    (STEREO, -1, (8_000,)),
    (STEREO, 1, (8_000,)),
    (STEREO.T, 0, (8_000,)),
    (np.stack([STEREO, STEREO]), -1, (2, 8_000)),
    (np.stack([STEREO.T, STEREO.T]), 1, (2, 8_000)),
    (STEREO[:, :1], np.int64(-1), (8_000,)),
  ],
)
def test_channels_are_averaged_along_their_axis(samples, axis, shape):
  found = check(samples, channel_axis=axis)
  assert found.shape == shape and found.dtype == np.float32
  share = 1.0 if samples.shape[-1] == 1 else 0.75
  np.testing.assert_allclose(found.reshape(-1)[:8_000], share * CLIP, atol=1e-6)


def test_the_beginning_is_taken_along_the_samples():
  batch = np.stack([STEREO, STEREO])
  assert check(batch, channel_axis=-1, seconds=0.25).shape == (2, 4_000)
  assert check(CLIP, seconds=0.25).shape == (4_000,)
  assert check(np.stack([CLIP, CLIP]), seconds=9.0).shape == (2, 8_000)


def test_integers_use_their_whole_range_before_channels_are_averaged():
  loud = np.full((8_000, 2), 32_767, np.int16)
  np.testing.assert_allclose(check(loud, channel_axis=-1), 1.0, atol=1e-4)


@pytest.mark.parametrize(
  "samples, options, words",
  [
    (STEREO, {}, r"has shape \(8000, 2\), that is 8000 clips of 2 samples; .* channel_axis=-1"),
    (STEREO, {"most_axes": 1}, r"has shape \(8000, 2\); give one clip, .* channel_axis=-1"),
    (STEREO.T, {"channel_axis": -1}, "axis -1 of the waveform has 8000 entries"),
    (CLIP, {"channel_axis": -1}, r"has shape \(8000,\) and no axis of channels"),
    (STEREO, {"channel_axis": 2}, "channel_axis is 2; give a whole number from -2 to 1"),
    (STEREO, {"channel_axis": "last"}, "channel_axis is 'last'; give a whole number"),
    (np.zeros((0, RATE), np.float32), {}, r"has shape \(0, 16000\) and holds no samples"),
    (np.zeros((2, 2, 2, 2)), {}, r"has shape \(2, 2, 2, 2\); give an array \[samples\]"),
    (0.5, {}, r"has shape \(\); give an array"),
    (None, {}, "the waveform is None; give an array"),
    ("a.wav", {}, "the waveform is the name 'a.wav'; read the file"),
    (pathlib.Path("a.wav"), {}, "the waveform is the name .*a.wav.*; read the file"),
    ([CLIP, CLIP[:9]], {}, r"is no array \(lists of unequal lengths\); give an array \[samples\]"),
    ([[0.1], [0.1, 0.2]], {}, r"is no array \(lists of unequal lengths\)"),
    (iter([0.5]), {}, "the waveform is <.*; give an array"),
    (CLIP + 0j, {}, "holds complex64"),
    (CLIP > 0, {}, "holds bool"),
  ],
)
@pytest.mark.usefixtures("types_not_checked")
def test_other_layouts_are_refused_with_what_to_do(samples, options, words):
  with pytest.raises(UserError, match=words):
    check(samples, **options)


def test_rates_are_whole_numbers_of_hz():
  assert waveforms.check_rate(44_100.0) == 44_100
  for rate in (None, "16000", 44_100.5, float("nan"), 0, -16_000, 10**400, [16_000], True):
    with pytest.raises(AudioError, match=r"^sample_rate is .*; give a whole number .*, in Hz$"):
      waveforms.check_rate(rate)
