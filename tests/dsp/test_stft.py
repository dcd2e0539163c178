"""Short-time Fourier transforms."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np

from audiolm_jax.dsp.stft import magnitude, stft
from tests.conftest import melody


def test_stft_equals_that_of_librosa():
  waveform = melody(0.25)
  found = stft(jnp.asarray(waveform)[None], 512, 128)[0]
  expected = librosa.stft(waveform, n_fft=512, hop_length=128, center=False).T
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_magnitude_of_zero_has_a_finite_gradient():
  gradient = jax.grad(lambda x: magnitude(jnp.fft.rfft(x)).sum())(jnp.zeros(16))
  assert bool(jnp.all(jnp.isfinite(gradient)))
