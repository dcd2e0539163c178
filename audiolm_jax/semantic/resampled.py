"""A semantic tokenizer for waveforms at the sample rate of a codec."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.chunking import Sliced
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.sliced import SlicedBlocks
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
from audiolm_jax.semantic.spec import SemanticSpec

_BLOCK_SAMPLES = 1 << 20


class ResampledTokenizer:
  """Resamples waveforms to the sample rate of a tokenizer and tokenizes them.

  Every clip is padded to a whole number of tokens. An array is resampled as a whole. A clip that is
  read in slices is resampled in blocks.
  """

  def __init__(self, own: ChunkedTokenizer, sample_rate: int):
    """Wraps a tokenizer.

    Args:
      own: the tokenizer to wrap.
      sample_rate: sample rate in Hz of the waveforms that the wrapper accepts.

    Raises:
      ConfigError: a token is not a whole number of samples at `sample_rate`.
    """
    if own.spec.hop_length * sample_rate % own.spec.sample_rate:
      raise ConfigError(
        f"a semantic token of {own.spec.hop_length} samples at {own.spec.sample_rate} Hz is not a "
        f"whole number of samples at the {sample_rate} Hz of the codec; use another codec"
      )
    self.own = own
    hop_length = own.spec.hop_length * sample_rate // own.spec.sample_rate
    self.spec = SemanticSpec(sample_rate, hop_length, own.spec.num_clusters)

  @property
  def params(self) -> Params:
    """The parameters of the wrapped tokenizer."""
    return self.own.params

  @property
  def token_params(self) -> Params:
    """The parameters that determine the tokens."""
    return self.own.token_params

  def tokenize(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch steps"]:
    """Returns the ids of `ceil(samples / hop_length)` steps.

    Args:
      waveform: one clip per row.
      lengths: number of samples in the clip of each row; ids after its end are 0. By default, clips
        fill their rows.
    """
    return self.own.tokenize(*self._rows(waveform, lengths))

  def tokenize_long(
    self, waveform: Float[np.ndarray, "samples"] | Sliced
  ) -> Int[np.ndarray, "steps"]:
    """Returns the ids of one clip, which can be read in slices; `tokenize` returns equal ids."""
    if isinstance(waveform, np.ndarray | jax.Array):
      return self.own.tokenize_long(self._resampled_array(waveform))
    return self.own.tokenize_long(self._resampled_blocks(waveform))

  def tokenize_clips(
    self, waveforms: Sequence[Float[np.ndarray, "_"]], batch_size: int
  ) -> list[Int[np.ndarray, "_"]]:
    """Returns the ids of each clip.

    They equal the ids of `tokenize_long`, except if rounding errors decide between two centroids.

    Args:
      waveforms: the clips.
      batch_size: number of chunks in a batch; a batch can contain chunks of several clips.
    """
    return self.own.tokenize_clips([self._resampled_array(w) for w in waveforms], batch_size)

  def features(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch steps dim"]:
    """Returns the whitened features whose nearest centroids are the tokens.

    Args:
      waveform: one clip per row.
      lengths: number of samples in the clip of each row; features after its end are 0. By default,
        clips fill their rows.
    """
    return self.own.features(*self._rows(waveform, lengths))

  def _rows(
    self, waveform: Float[np.ndarray | Array, "batch samples"], lengths: np.ndarray | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows at the sample rate of the tokenizer, and the number of samples per clip."""
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    ends = np.full(batch, samples) if lengths is None else np.asarray(lengths)
    hop = self.own.spec.hop_length
    rows = np.zeros((batch, -(-samples // self.spec.hop_length) * hop), np.float32)
    for row, clip, end in zip(rows, waveform, ends, strict=True):
      resampled = self._resampled_array(clip[:end])
      row[: len(resampled)] = resampled
    return rows, -(-ends // self.spec.hop_length) * hop

  def _resampled_array(
    self, waveform: Float[np.ndarray | Array, "samples"]
  ) -> Float[np.ndarray, "resampled"]:
    # Imported here because most bundles have only one sample rate and need no resampler.
    from audiolm_jax.io import audio

    waveform = np.pad(np.asarray(waveform), (0, -len(waveform) % self.spec.hop_length))
    return audio.resample(waveform, self.spec.sample_rate, self.own.spec.sample_rate)

  def _resampled_blocks(self, waveform: Sliced) -> SlicedBlocks:
    from audiolm_jax.io import audio

    missing = -len(waveform) % self.spec.hop_length
    rates = self.spec.sample_rate, self.own.spec.sample_rate

    def blocks() -> Iterator[np.ndarray]:
      for start in range(0, len(waveform), _BLOCK_SAMPLES):
        yield waveform[start : start + _BLOCK_SAMPLES]
      yield np.zeros(missing, np.float32)

    length = audio.resampled_length(len(waveform) + missing, *rates)
    return SlicedBlocks(lambda: audio.resampled_blocks(blocks(), *rates), (length,))


def own_tokenizer(tokenizer: ChunkedTokenizer | ResampledTokenizer) -> ChunkedTokenizer:
  """Returns the tokenizer that a `ResampledTokenizer` wraps, or the tokenizer itself."""
  return tokenizer.own if isinstance(tokenizer, ResampledTokenizer) else tokenizer


def tokenizer_at(
  tokenizer: ChunkedTokenizer | ResampledTokenizer, sample_rate: int
) -> ChunkedTokenizer | ResampledTokenizer:
  """Returns a tokenizer for waveforms at `sample_rate`, which resamples only if necessary.

  Raises:
    ConfigError: a token is not a whole number of samples at `sample_rate`.
  """
  if tokenizer.spec.sample_rate == sample_rate:
    return tokenizer
  own = own_tokenizer(tokenizer)
  return own if own.spec.sample_rate == sample_rate else ResampledTokenizer(own, sample_rate)
