"""Semantic tokens of a published w2v-BERT 2.0: the centroids nearest to features of one layer.

Source: Seamless Communication, "Seamless", 2023 (arXiv 2312.05187), section 3.2.1.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.chunking import Sliced
from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import Depth, Vocabulary
from audiolm_jax.pretrained.kaldi_features import standardized_log_mel
from audiolm_jax.pretrained.layer_tokenizer import (
  LayerTokenizer,
  LayerTokenizerConfig,
  centroids_of,
  encoded,
  windows_of_30_seconds,
)
from audiolm_jax.pretrained.w2v_bert_2 import (
  FRAMES_PER_STEP,
  W2vBert2Config,
  W2vBert2Encoder,
  convert_encoder,
  read_config,
)
from audiolm_jax.pretrained.weights import PublishedWeights
from audiolm_jax.semantic.chunked_tokenizer import TokenizedFeatures, unwhitened


@dataclasses.dataclass(frozen=True)
class W2vBert2TokenizerConfig(LayerTokenizerConfig):
  """Settings of the tokenizer; the defaults are layer 17, and 1024 clusters as in AudioLM."""

  encoder: W2vBert2Config = W2vBert2Config()
  layer: Depth = 17
  num_clusters: Vocabulary = 1024


class W2vBert2Tokenizer(LayerTokenizer):
  """Tokens of a w2v-BERT 2.0, one per hop; the number of hops of a clip is rounded up.

  The model computes one step from 560 samples every 320 samples, so a clip has up to two steps
  fewer than hops. The features of the last step are repeated for the missing steps. Each mel band
  is normalized over the whole clip, so a clip that is read in slices is read three times.
  """

  config: W2vBert2TokenizerConfig

  @property
  def inputs_per_step(self) -> int:
    return self.config.steps_per_token

  def inputs_of(
    self, waveform: Float[np.ndarray, "samples"] | Sliced
  ) -> Float[np.ndarray, "steps bands"] | Sliced:
    """Returns log-mel features of a clip, at least one step.

    The features have half as many numbers as the waveform. See `standardized_log_mel`.
    """
    c = self.config.encoder
    if isinstance(waveform, np.ndarray | jax.Array) or len(waveform) < c.step_length:
      waveform = np.asarray(waveform, np.float32)
      waveform = np.pad(waveform, (0, max(0, c.step_length - len(waveform))))
    return standardized_log_mel(waveform, c.num_mels, FRAMES_PER_STEP)

  def encode_chunks(
    self,
    inputs: Float[np.ndarray | Array, "batch size bands"],
    ends: Int[np.ndarray | Array, "batch"],
  ) -> TokenizedFeatures:
    return _encode(self.config, self.params, inputs, ends)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: W2vBert2TokenizerConfig,
  params: Params,
  padded: Float[Array, "batch size bands"],
  ends: Int[Array, "batch"],
) -> TokenizedFeatures:
  """Encodes chunks of log-mel features with `ends` steps each; repeats the last step of a row."""
  valid = jnp.minimum(ends, padded.shape[1])
  encoder = W2vBert2Encoder(config.encoder, config.layer)
  with jax.default_matmul_precision("float32"):  # as in the published model
    features = modules.apply(encoder, params["encoder"], padded, valid)
    return encoded(features, valid, params, config.steps_per_token)


def convert(
  published: Json,
  weights: PublishedWeights,
  *,
  layer: int,
  centroids: Float[np.ndarray, "clusters dim"] | None = None,
  steps_per_token: int = 1,
) -> W2vBert2Tokenizer:
  """Returns the tokenizer from a w2v-BERT 2.0 in the format of Hugging Face transformers.

  Args:
    published: content of the `config.json` of the model.
    weights: tensors of the model by name.
    layer: Conformer block whose features are clustered, counted from 1.
    centroids: cluster centres of those features; None for a single centroid at zero, if the
      centroids will be fitted later.
    steps_per_token: number of consecutive steps whose mean features give a token.

  Raises:
    ConfigError: `published` is invalid, see `read_config`, a tensor or the centroids have a wrong
      shape, or the layer does not exist.
    DataError: a tensor is missing or unused.
  """
  encoder = read_config(published)
  centroids = centroids_of(encoder.dim, centroids)
  config = W2vBert2TokenizerConfig(
    encoder, layer, len(centroids), **windows_of_30_seconds(encoder, steps_per_token)
  )
  params = unwhitened(convert_encoder(encoder, weights, layer), centroids)
  return W2vBert2Tokenizer(config, params)
