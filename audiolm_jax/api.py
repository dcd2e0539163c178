"""Sound in, sound out, with a loaded bundle; NumPy on both sides.

For example:

    bundle = audiolm_jax.load_bundle("speech_tiny")
    tokens = audiolm_jax.encode(bundle, waveform, sample_rate)
    result = audiolm_jax.continue_audio(bundle, waveform, sample_rate, duration=7.0, seed=0)
    for piece in audiolm_jax.stream_audio(bundle, waveform, sample_rate, duration=60.0): play(piece)
"""

import numpy as np
from jaxtyping import Float, Int, Num

from audiolm_jax import audio
from audiolm_jax.bundles import Bundle
from audiolm_jax.continuation import (
  Continuation,
  Encoded,
  at_bundle_rate,
  continue_audio,
  stream_audio,
)
from audiolm_jax.errors import DataError

__all__ = ["Continuation", "Encoded", "continue_audio", "decode", "encode", "stream_audio"]


def encode(
  bundle: Bundle, waveform: Num[np.ndarray, "*batch samples"], sample_rate: int
) -> Encoded:
  """The tokens of a waveform, of any length, in memory that does not grow with it.

  Args:
    waveform: one clip or a batch; floats in [-1, 1], or integers over their whole range.
    sample_rate: Hz.
  Returns:
    `ceil(samples / hop_length)` semantic tokens and frames of codes, counted at the bundle's rate.
  Raises:
    AudioError: no samples, NaN or infinite ones, shorter than a semantic token, or a strange rate.
  """
  waveform = at_bundle_rate(bundle, waveform, sample_rate)
  hop_seconds = 1 / bundle.semantic.spec.frame_rate
  audio.check_length(waveform.shape[-1], bundle.sample_rate, hop_seconds, "the waveform")
  if waveform.ndim == 1:
    return Encoded(bundle.semantic.tokenize_long(waveform), bundle.codec.encode_long(waveform))
  return Encoded(bundle.semantic.tokenize(waveform), bundle.codec.encode(waveform))


def decode(
  bundle: Bundle, codes: Int[np.ndarray, "*batch frames quantizers"]
) -> Float[np.ndarray, "*batch samples"]:
  """The waveform of acoustic codes, `frames * hop_length` samples at the bundle's rate.

  Args:
    codes: of one clip or a batch; all levels, or the first ones only for fewer bits.
  Raises:
    DataError: another shape, or values that are no codes of this bundle.
  """
  codes = np.asarray(codes)
  spec = bundle.codec.spec
  if codes.ndim not in (2, 3) or not codes.size or codes.dtype.kind not in "iu":
    raise DataError(
      f"codes are {codes.dtype} of shape {codes.shape}; give integers [frames, quantizers], "
      "with a batch axis before it for several clips"
    )
  if codes.shape[-1] > spec.num_quantizers:
    raise DataError(f"codes have {codes.shape[-1]} levels, the codec has {spec.num_quantizers}")
  if codes.min() < 0 or codes.max() >= spec.codebook_size:
    raise DataError(
      f"codes range over {codes.min()}..{codes.max()}; the codec knows 0..{spec.codebook_size - 1}"
    )
  batch = codes[None] if codes.ndim == 2 else codes
  waveform = np.clip(np.asarray(bundle.codec.decode(batch.astype(np.int32))), -1.0, 1.0)
  return waveform[0] if codes.ndim == 2 else waveform
