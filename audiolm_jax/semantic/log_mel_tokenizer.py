"""The common part of tokenizers whose encoder reads log-mel frames and has a receptive field."""

import abc
from typing import Any

from jaxtyping import Float

from audiolm_jax.chunking import Reach
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer, TokenizedFeatures
from audiolm_jax.semantic.kmeans import nearest_centroid
from audiolm_jax.semantic.spec import SemanticSpec

_SMALLEST_WINDOW = 64


class LogMelTokenizerConfig(abc.ABC):
  """The chunks of a tokenizer; a base of dataclasses with these fields.

  Attributes:
    encoder: has the front end `features` and the samples per token `hop_length`.
    num_clusters: number of ids.
    chunk_steps: tokens per chunk of a long file, context excluded.
  """

  encoder: Any
  num_clusters: int
  chunk_steps: int

  def __post_init__(self) -> None:
    if self.chunk_steps < 1:
      raise ConfigError(f"chunk_steps {self.chunk_steps} is less than 1")

  @property
  @abc.abstractmethod
  def receptive_field(self) -> Reach:
    """Steps before and after a step that its token depends on."""

  @property
  def window_steps(self) -> int:
    """Steps of the largest chunk, context included."""
    field = self.receptive_field
    return field.left + self.chunk_steps + field.right

  def size_for(self, num_steps: int) -> int:
    """Returns the next power of two, so that few programs are compiled."""
    return max(_SMALLEST_WINDOW, 1 << (num_steps - 1).bit_length())


class LogMelTokenizer(ChunkedTokenizer):
  """Every chunk contains the receptive field of the tokens it keeps."""

  config: LogMelTokenizerConfig

  @property
  def spec(self) -> SemanticSpec:
    encoder = self.config.encoder
    return SemanticSpec(encoder.features.sample_rate, encoder.hop_length, self.config.num_clusters)

  @property
  def margins(self) -> tuple[int, int]:
    margin = self.config.encoder.features.margin
    return margin, margin


def whitened(features: Float[Array, "batch steps dim"], params: Params) -> TokenizedFeatures:
  """Returns the whitened features and their ids, within the program that computes the features.

  A separate program could resolve near ties in another order, depending on the batch.
  """
  features = (features - params["mean"]) / params["scale"]
  return TokenizedFeatures(features, nearest_centroid(features, params["centroids"]))
