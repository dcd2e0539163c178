"""A semantic tokenizer beside a codec of another sample rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
from audiolm_jax.semantic.spec import SemanticSpec


class ResampledTokenizer:
  """As the tokenizer within, for waveforms of another rate.

  Every clip is filled up to a whole token and resampled as a whole, long ones too: 64 kB of memory
  for each second that the tokenizer hears at 16 kHz.
  """

  def __init__(self, own: ChunkedTokenizer, sample_rate: int):
    """`own` makes the tokens, at its own rate; `sample_rate`, in Hz, is that of what is given.

    Raises:
      ConfigError: a token is no whole number of samples at that rate.
    """
    if own.spec.hop_length * sample_rate % own.spec.sample_rate:
      raise ConfigError(
        f"a semantic token is {own.spec.hop_length} samples at {own.spec.sample_rate} Hz, "
        f"which is no whole number at the {sample_rate} Hz of the codec; take another one"
      )
    self.own = own
    hop_length = own.spec.hop_length * sample_rate // own.spec.sample_rate
    self.spec = SemanticSpec(sample_rate, hop_length, own.spec.num_clusters)

  @property
  def params(self) -> dict[str, Any]:
    """The tokenizer's."""
    return self.own.params

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the tokens."""
    return self.own.token_params

  def tokenize(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch steps"]:
    """Ids of `ceil(samples / hop_length)` steps; 0 past the end of a row that `lengths` ends."""
    return self.own.tokenize(*self._rows(waveform, lengths))

  def tokenize_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "steps"]:
    """Ids of one long clip; equal to `tokenize`."""
    return self.own.tokenize_long(self._resampled(waveform))

  def tokenize_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "steps"]]:
    """Ids of each clip; equal to `tokenize_long`, but chunks of one size go side by side."""
    return self.own.tokenize_clips([self._resampled(w) for w in waveforms], batch_size)

  def features(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch steps dim"]:
    """Whitened features of the chosen layer; 0 past the end of a row."""
    return self.own.features(*self._rows(waveform, lengths))

  def _rows(
    self, waveform: Float[np.ndarray | Array, "batch samples"], lengths: np.ndarray | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows at the tokenizer's rate, each resampled alone, and how many samples of each count."""
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    ends = np.full(batch, samples) if lengths is None else np.asarray(lengths)
    hop = self.own.spec.hop_length
    rows = np.zeros((batch, -(-samples // self.spec.hop_length) * hop), np.float32)
    for row, clip, end in zip(rows, waveform, ends, strict=True):
      heard = self._resampled(clip[:end])
      row[: len(heard)] = heard
    return rows, -(-ends // self.spec.hop_length) * hop

  def _resampled(self, waveform: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "resampled"]:
    # Only here: most bundles have one rate, and the resampler need not be imported for them.
    from audiolm_jax.io import audio

    waveform = np.pad(np.asarray(waveform), (0, -len(waveform) % self.spec.hop_length))
    return audio.resample(waveform, self.spec.sample_rate, self.own.spec.sample_rate)


def own_tokenizer(tokenizer: ChunkedTokenizer | ResampledTokenizer) -> ChunkedTokenizer:
  """The tokenizer at the rate that it hears itself."""
  return tokenizer.own if isinstance(tokenizer, ResampledTokenizer) else tokenizer


def tokenizer_at(
  tokenizer: ChunkedTokenizer | ResampledTokenizer, sample_rate: int
) -> ChunkedTokenizer | ResampledTokenizer:
  """The same tokenizer for waveforms of that rate.

  Raises:
    ConfigError: a token is no whole number of samples at that rate.
  """
  if tokenizer.spec.sample_rate == sample_rate:
    return tokenizer
  own = own_tokenizer(tokenizer)
  return own if own.spec.sample_rate == sample_rate else ResampledTokenizer(own, sample_rate)
