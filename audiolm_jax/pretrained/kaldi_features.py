"""Log-mel features of Kaldi, in the variant of SeamlessM4T and w2v-BERT 2.0.

Source: the feature `fbank` of Kaldi (Povey et al., "The Kaldi Speech Recognition Toolkit", 2011).
"""

import functools
from collections.abc import Iterable, Iterator
from typing import overload

import numpy as np
from jaxtyping import Float

from audiolm_jax.chunking import Sliced
from audiolm_jax.core.sliced import SlicedBlocks
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
_BLOCK = 2048  # frames to compute at a time, which limits memory; a multiple of `together`


@overload
def standardized_log_mel(
  waveform: Float[np.ndarray, "samples"], num_mels: int, together: int = 1
) -> Float[np.ndarray, "steps bands"]: ...
@overload
def standardized_log_mel(waveform: Sliced, num_mels: int, together: int = 1) -> SlicedBlocks: ...
def standardized_log_mel(
  waveform: Float[np.ndarray, "samples"] | Sliced, num_mels: int, together: int = 1
) -> Float[np.ndarray, "steps bands"] | SlicedBlocks:
  """Returns log-mel features with mean 0 and variance 1 of each band over the whole clip.

  Args:
    waveform: samples in [-1, 1] at 16 kHz, at least two frames (560 samples). A waveform that is
      read in slices is read three times: for the mean, for the variance and for the features.
    num_mels: number of bands.
    together: number of consecutive frames that are concatenated to a step, a row of the result;
      frames that do not fill the last step are dropped.

  Returns:
    Features of frames of 400 samples, one frame every 160 samples; zeros for digital silence. For a
    waveform that is read in slices, the result is also computed in slices.
  """
  count = _num_frames(waveform)
  in_memory = [kaldi_log_mel(waveform, num_mels)] if isinstance(waveform, np.ndarray) else None

  def blocks() -> Iterable[Float[np.ndarray, "_frames mels"]]:
    return in_memory or _log_mel_blocks(waveform, num_mels)

  mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks()) / count
  mean = np.asarray(mean, np.float32)
  squares = sum(
    np.einsum("fm,fm->m", centred, centred, dtype=np.float64)
    for centred in (block - mean for block in blocks())
  )
  scale = np.asarray(1 / np.sqrt(squares / (count - 1) + _EPSILON), np.float32)
  rows = count // together

  def standardized() -> Iterator[Float[np.ndarray, "_steps bands"]]:
    for block in blocks():
      block -= mean
      block *= scale
      whole = len(block) // together
      yield block[: whole * together].reshape(whole, together * num_mels)

  if in_memory:
    return next(standardized())
  return SlicedBlocks(standardized, (rows, together * num_mels))


def kaldi_log_mel(
  waveform: Float[np.ndarray, "samples"], num_mels: int
) -> Float[np.ndarray, "frames mels"]:
  """Returns the natural logarithm of the power in each mel band, without dither.

  Args:
    waveform: samples in [-1, 1] at 16 kHz, at least one frame (400 samples).
    num_mels: number of bands.
  """
  features = np.empty((_num_frames(waveform), num_mels), np.float32)
  done = 0
  for block in _log_mel_blocks(waveform, num_mels):
    features[done : done + len(block)] = block
    done += len(block)
  return features


def _num_frames(waveform: Float[np.ndarray, "samples"] | Sliced) -> int:
  return (len(waveform) - WINDOW_LENGTH) // HOP_LENGTH + 1


def _log_mel_blocks(
  waveform: Float[np.ndarray, "samples"] | Sliced, num_mels: int
) -> Iterator[Float[np.ndarray, "_frames mels"]]:
  count = _num_frames(waveform)
  for start in range(0, count, _BLOCK):
    last = min(start + _BLOCK, count) - 1
    piece = waveform[start * HOP_LENGTH : last * HOP_LENGTH + WINDOW_LENGTH]
    frames = np.lib.stride_tricks.sliding_window_view(piece, WINDOW_LENGTH)[::HOP_LENGTH]
    yield _log_mel_of_frames(frames.astype(np.float64), num_mels).astype(np.float32)


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
