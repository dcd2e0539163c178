"""A semantic tokenizer beside a codec of another sample rate."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from audiolm_jax.errors import ConfigError
from audiolm_jax.semantic.tokenizer import SemanticSpec, SemanticTokenizer, SemanticTokenizerConfig


@dataclasses.dataclass(frozen=True)
class ResampledTokenizerConfig:
  """The tokenizer, and the rate of what it is given.

  Attributes:
    sample_rate: Hz, at which a token is a whole number of samples.
    tokenizer: of a rate of its own.
  """

  sample_rate: int
  tokenizer: SemanticTokenizerConfig

  def __post_init__(self) -> None:
    encoder = self.tokenizer.encoder
    if encoder.hop_length * self.sample_rate % encoder.features.sample_rate:
      raise ConfigError(
        f"a semantic token is {encoder.hop_length} samples at {encoder.features.sample_rate} Hz, "
        f"which is no whole number at the {self.sample_rate} Hz of the codec; take another one"
      )

  @property
  def hop_length(self) -> int:
    """Samples per token."""
    encoder = self.tokenizer.encoder
    return encoder.hop_length * self.sample_rate // encoder.features.sample_rate


class ResampledTokenizer:
  """As `SemanticTokenizer`, for waveforms of another rate.

  Every clip is filled up to a whole token and resampled as a whole, long ones too: 64 kB of memory
  for each second that the tokenizer hears at 16 kHz.
  """

  def __init__(self, config: ResampledTokenizerConfig, params: Mapping[str, Any]):
    """`params` are the tokenizer's."""
    self.config = config
    self._tokenizer = SemanticTokenizer(config.tokenizer, params)

  @property
  def params(self) -> dict[str, Any]:
    return self._tokenizer.params

  @property
  def spec(self) -> SemanticSpec:
    """Rates and number of ids, at the rate of what is given."""
    c = self.config
    return SemanticSpec(c.sample_rate, c.hop_length, c.tokenizer.num_clusters)

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the tokens: all of them."""
    return self._tokenizer.token_params

  def tokenize(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch steps"]:
    """Ids of `ceil(samples / hop_length)` steps; 0 past the end of a row that `lengths` ends."""
    return self._tokenizer.tokenize(*self._rows(waveform, lengths))

  def tokenize_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "steps"]:
    """Ids of one long clip; equal to `tokenize`."""
    return self._tokenizer.tokenize_long(self._resampled(waveform))

  def tokenize_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "steps"]]:
    """Ids of each clip; equal to `tokenize_long`, but windows of one size go side by side."""
    return self._tokenizer.tokenize_clips([self._resampled(w) for w in waveforms], batch_size)

  def features(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch steps dim"]:
    """Whitened features of the chosen layer; 0 past the end of a row."""
    return self._tokenizer.features(*self._rows(waveform, lengths))

  def _rows(
    self, waveform: Float[np.ndarray | Array, "batch samples"], lengths: np.ndarray | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows at the tokenizer's rate, each resampled alone, and how many samples of each count."""
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    ends = np.full(batch, samples) if lengths is None else np.asarray(lengths)
    hop = self.config.tokenizer.encoder.hop_length
    rows = np.zeros((batch, -(-samples // self.config.hop_length) * hop), np.float32)
    for row, clip, end in zip(rows, waveform, ends, strict=True):
      heard = self._resampled(clip[:end])
      row[: len(heard)] = heard
    return rows, -(-ends // self.config.hop_length) * hop

  def _resampled(self, waveform: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "resampled"]:
    # Only here: most bundles have one rate, and the resampler need not be imported for them.
    from audiolm_jax import audio

    waveform = np.pad(np.asarray(waveform), (0, -len(waveform) % self.config.hop_length))
    own_rate = self.config.tokenizer.encoder.features.sample_rate
    return audio.resample(waveform, self.config.sample_rate, own_rate)


def tokenizer_at(
  tokenizer: SemanticTokenizer | ResampledTokenizer, sample_rate: int
) -> SemanticTokenizer | ResampledTokenizer:
  """The same tokenizer for waveforms of that rate.

  Raises:
    ConfigError: a token is no whole number of samples at that rate.
  """
  if tokenizer.spec.sample_rate == sample_rate:
    return tokenizer
  config, params = tokenizer.config, tokenizer.params
  own = config.tokenizer if isinstance(config, ResampledTokenizerConfig) else config
  if own.encoder.features.sample_rate == sample_rate:
    return SemanticTokenizer(own, params)
  return ResampledTokenizer(ResampledTokenizerConfig(sample_rate, own), params)
