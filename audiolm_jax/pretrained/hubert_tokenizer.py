"""Semantic tokens of a published HuBERT: the centroids nearest to the features of one layer.

Source: Hsu et al., "HuBERT", 2021 (arXiv 2106.07447), section III-B; for the tokens, Lakhotia et
al., "On Generative Spoken Language Modeling from Raw Audio", 2021 (arXiv 2102.01192), section 3.1.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Depth, Vocabulary
from audiolm_jax.pretrained.hubert import (
  HubertConfig,
  HubertEncoder,
  convert_encoder,
  read_config,
)
from audiolm_jax.pretrained.layer_tokenizer import (
  LayerTokenizer,
  LayerTokenizerConfig,
  centroids_of,
  encoded,
  windows_of_30_seconds,
)
from audiolm_jax.pretrained.weights import PublishedWeights
from audiolm_jax.semantic.chunked_tokenizer import TokenizedFeatures, unwhitened


@dataclasses.dataclass(frozen=True)
class HubertTokenizerConfig(LayerTokenizerConfig):
  """Settings of the tokenizer; the defaults are layer 9 of the base model and 500 clusters."""

  encoder: HubertConfig = HubertConfig()
  layer: Depth = 9
  num_clusters: Vocabulary = 500


class HubertTokenizer(LayerTokenizer):
  """Tokens of a HuBERT, one per hop; the number of hops of a clip is rounded up.

  The base model computes one frame from 400 samples every 320 samples, so a clip has up to two
  frames fewer than hops. The features of the last frame are repeated for the missing frames.
  """

  config: HubertTokenizerConfig

  @property
  def margins(self) -> tuple[int, int]:
    """Numbers of samples read before and after a chunk, because a frame is longer than a hop."""
    return 0, self.config.encoder.frame_length - self.config.encoder.hop_length

  def encode_chunks(
    self, inputs: Float[np.ndarray | Array, "batch padded"], ends: Int[np.ndarray | Array, "batch"]
  ) -> TokenizedFeatures:
    return _encode(self.config, self.params, inputs, ends)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: HubertTokenizerConfig,
  params: Params,
  padded: Float[Array, "batch padded"],
  ends: Int[Array, "batch"],
) -> TokenizedFeatures:
  """Encodes chunks of waveform with `ends` samples each; repeats the last whole frame of a row."""
  valid = jnp.clip(ends, config.encoder.frame_length, padded.shape[1])
  with jax.default_matmul_precision("float32"):  # as for the published tokens
    encoder = HubertEncoder(config.encoder, config.layer)
    features = modules.apply(encoder, params["encoder"], padded, valid)
    count = (valid - config.encoder.frame_length) // config.encoder.hop_length + 1
    return encoded(features, count, params, config.steps_per_token)


def convert(
  published: Json,
  weights: PublishedWeights,
  *,
  layer: int,
  centroids: Float[np.ndarray, "clusters dim"] | None = None,
  steps_per_token: int = 1,
) -> HubertTokenizer:
  """Returns the tokenizer from a published HuBERT in the format of Hugging Face transformers.

  Args:
    published: content of the `config.json` of the model.
    weights: tensors of the model by name, weight-normalized or plain.
    layer: transformer block whose features are clustered, counted from 1.
    centroids: cluster centres of those features; None for a single centroid at zero, if the
      centroids will be fitted later.
    steps_per_token: number of consecutive frames whose mean features give a token.

  Raises:
    ConfigError: `published` is invalid, see `read_config`, a tensor or the centroids have a wrong
      shape, or the layer does not exist.
    DataError: a tensor is missing or unused.
  """
  encoder = read_config(published)
  centroids = centroids_of(encoder.dim, centroids)
  config = HubertTokenizerConfig(
    encoder, layer, len(centroids), **windows_of_30_seconds(encoder, steps_per_token)
  )
  params = unwhitened(convert_encoder(encoder, weights, layer), centroids)
  return HubertTokenizer(config, params)
