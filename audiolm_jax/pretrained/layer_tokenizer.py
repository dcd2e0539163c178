"""Base classes of tokenizers that cluster the features of one layer of a published encoder.

The features of such an encoder depend on the whole clip.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.chunking import Reach
from audiolm_jax.core import shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Depth, Steps, Taps, Vocabulary
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer, TokenizedFeatures
from audiolm_jax.semantic.kmeans import nearest_of_close_centroids
from audiolm_jax.semantic.spec import SemanticSpec

_SMALLEST_PART = 64


@dataclasses.dataclass(frozen=True)
class LayerTokenizerConfig:
  """Settings of tokenizers of published encoders.

  Attributes:
    encoder: shape of the whole encoder, with `num_layers`, `hop_length`, `sample_rate`, `dim` and
      `parameter_shapes(layer)`; only its first `layer` blocks are used.
    layer: number of the block whose features are clustered, counted from 1.
    num_clusters: number of cluster centres; ids are in [0, num_clusters).
    window_steps: maximum number of tokens of a chunk; a clip of up to this length is encoded as a
      whole. The default is 30 s at 50 Hz.
    context_steps: for longer clips, number of tokens at each end of a chunk that are only context
      for the encoder and are not returned.
    steps_per_token: number of consecutive steps of the encoder whose mean features give a token.

  Raises:
    ConfigError: a value is out of range.
  """

  encoder: Any
  layer: Depth
  num_clusters: Vocabulary
  window_steps: Steps = 1500
  context_steps: Steps = 250
  steps_per_token: Taps = 1

  def __post_init__(self) -> None:
    if not 1 <= self.layer <= self.encoder.num_layers:
      raise ConfigError(
        f"layer {self.layer} is not one of the model's blocks 1 to {self.encoder.num_layers}"
      )
    if self.steps_per_token < 1:
      raise ConfigError(f"steps_per_token {self.steps_per_token} must be at least 1")
    if not 1 < self.context_steps < self.window_steps / 2:
      raise ConfigError(
        f"context_steps {self.context_steps} must be at least 2 and less than half of "
        f"window_steps {self.window_steps}"
      )

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the tokenizer."""
    encoder = self.encoder.parameter_shapes(self.layer)
    return shapes.clustered(encoder, self.encoder.dim, self.num_clusters)

  @property
  def receptive_field(self) -> Reach:
    """The context at each end of a chunk, in tokens."""
    return Reach(self.context_steps, self.context_steps)

  def size_for(self, num_steps: int) -> int:
    """Returns the chunk size for a clip of `num_steps` tokens, fewer than `window_steps`.

    Sizes are multiples of 64 tokens or of 1/20 of the largest chunk, whichever is larger. Fewer
    sizes would save compilations, but padding would take more time.
    """
    part = max(_SMALLEST_PART, self.window_steps // 20)
    return -(-num_steps // part) * part

  @property
  def hop_length(self) -> int:
    """Samples per token."""
    return self.encoder.hop_length * self.steps_per_token


class LayerTokenizer(ChunkedTokenizer):
  """Clusters the features of one layer: one token per hop, with the number of hops rounded up.

  The encoder treats each chunk of a long clip as a separate clip.
  """

  config: LayerTokenizerConfig

  @property
  def spec(self) -> SemanticSpec:
    c = self.config
    return SemanticSpec(c.encoder.sample_rate, c.hop_length, c.num_clusters)


def windows_of_30_seconds(encoder: Any, steps_per_token: int) -> dict[str, int]:
  """Returns settings of `LayerTokenizerConfig` for chunks of 30 s, with 5 s context at each end."""
  tokens = round(5 * encoder.sample_rate / (encoder.hop_length * steps_per_token))
  return {
    "window_steps": 6 * tokens,
    "context_steps": tokens,
    "steps_per_token": steps_per_token,
  }


def encoded(
  features: Float[Array, "batch steps dim"],
  count: Int[Array, "batch"],
  params: Params,
  steps_per_token: int,
) -> TokenizedFeatures:
  """Returns whitened features and ids of each token.

  Args:
    features: features of each step of the encoder.
    count: number of steps of each row; the last of these steps replaces all later steps.
    params: parameters of the tokenizer.
    steps_per_token: number of consecutive steps whose mean features give a token.
  """
  held = jnp.minimum(jnp.arange(features.shape[1])[None], count[:, None] - 1)
  features = jnp.take_along_axis(features, held[..., None], axis=1)
  batch, steps, dim = features.shape
  features = features.reshape(batch, steps // steps_per_token, steps_per_token, dim).mean(axis=2)
  features = (features - params["mean"]) / params["scale"]
  # Distances do not depend on the origin. Near the mean of the centroids, float32 is most precise.
  origin = params["centroids"].mean(axis=0)
  ids = nearest_of_close_centroids(features - origin, params["centroids"] - origin)
  return TokenizedFeatures(features, ids)


def centroids_of(
  dim: int, centroids: Float[np.ndarray, "clusters dim"] | None
) -> Float[np.ndarray, "clusters dim"]:
  """Returns the centroids; without centroids, a single centroid at zero, to be fitted later.

  Args:
    dim: dimension of the features.
    centroids: cluster centres; None for a single centroid at zero.

  Raises:
    ConfigError: the dimension of the centroids is not `dim`.
  """
  if centroids is None:
    return np.zeros((1, dim), np.float32)
  if centroids.shape[1] != dim:
    raise ConfigError(
      f"the centroids have {centroids.shape[1]} dimensions, the model's features {dim}; "
      "use those of this model"
    )
  return centroids
