"""Short-time Fourier transforms in JAX."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from audiolm_jax.core.arrays import Array


def stft(
  waveform: Float[Array, "batch samples"], window: int, hop: int
) -> Complex[Array, "batch frames bins"]:
  """Returns the short-time Fourier transform with a Hann window, without padding.

  Frames are concatenated from blocks of `hop` samples, because the gradient of a gather is slow.

  Args:
    waveform: the signal.
    window: number of samples per frame, a multiple of `hop`.
    hop: number of samples from frame to frame.

  Returns:
    `samples // hop - window // hop + 1` frames of `window // 2 + 1` bins.
  """
  batch, samples = waveform.shape
  blocks = waveform[:, : samples // hop * hop].reshape(batch, -1, hop)
  overlap = window // hop
  frames = blocks.shape[1] - overlap + 1
  framed = jnp.concatenate([blocks[:, i : i + frames] for i in range(overlap)], axis=-1)
  taper = np.hanning(window + 1)[:-1].astype(np.float32)
  return jnp.fft.rfft(framed * taper, axis=-1)


def magnitude(spectrum: Complex[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Returns absolute values, slightly increased so that the gradient is finite at zero."""
  return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + 1e-9)
