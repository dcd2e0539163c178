"""The base class of tokenizers with encoders that read log-mel frames in a finite context."""

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
  """Base class for configurations of a `LogMelTokenizer`; subclasses are dataclasses.

  Attributes:
    encoder: configuration of the encoder. Its `features` are the `LogMelConfig` of the front end,
      and its `hop_length` is the number of samples per token.
    num_clusters: number of ids.
    chunk_steps: tokens per chunk of a long file, context excluded.

  Raises:
    ConfigError: `chunk_steps` is less than 1.
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
    """The numbers of earlier and later steps that the token of a step depends on."""

  @property
  def window_steps(self) -> int:
    """Number of steps of the largest chunk, context included."""
    field = self.receptive_field
    return field.left + self.chunk_steps + field.right

  def size_for(self, num_steps: int) -> int:
    """Returns the size in steps of a chunk that contains a clip of `num_steps` steps.

    Sizes are powers of two of at least 64, so that few programs are compiled.
    """
    return max(_SMALLEST_WINDOW, 1 << (num_steps - 1).bit_length())


class LogMelTokenizer(ChunkedTokenizer):
  """Computes each token from a chunk that contains the whole receptive field of the token."""

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
  """Returns the whitened features and their ids.

  Call this function in the jitted function that computes the features. In a separate program, the
  id of a feature could depend on the batch if two centroids are almost equally near.
  """
  features = (features - params["mean"]) / params["scale"]
  return TokenizedFeatures(features, nearest_centroid(features, params["centroids"]))
