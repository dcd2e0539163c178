"""The w2v-BERT tokenizer: truncated encoder, whitening and nearest centroid."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.chunking import Reach
from audiolm_jax.core import modules, shapes
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Params
from audiolm_jax.core.ranges import DepthOrNone, Steps, Vocabulary
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.semantic.chunked_tokenizer import TokenizedFeatures
from audiolm_jax.semantic.conformer import (
  FRAMES_PER_STEP,
  ConformerConfig,
  ConformerEncoder,
)
from audiolm_jax.semantic.features import normalised_log_mel, power_spectrum
from audiolm_jax.semantic.log_mel_tokenizer import (
  LogMelTokenizer,
  LogMelTokenizerConfig,
  whitened,
)


@dataclasses.dataclass(frozen=True)
class SemanticTokenizerConfig(LogMelTokenizerConfig):
  """Shape of the tokenizer; by default, the shape in AudioLM.

  AudioLM uses w2v-BERT XL, layer 7 of the masked-prediction module, and 1024 clusters.

  Attributes:
    encoder: shape of the trained encoder; the tokenizer uses only the first `layer` blocks.
    layer: number of the block whose features are clustered, counted from 1 through all stacks; 0
      for the input of the first block.
    num_clusters: number of ids.
    chunk_steps: tokens per chunk of a long file, context excluded.

  Raises:
    ConfigError: the encoder has fewer blocks than `layer`, `layer` is negative, or `chunk_steps` is
      less than 1.
  """

  encoder: ConformerConfig = ConformerConfig()
  layer: DepthOrNone = 19
  num_clusters: Vocabulary = 1024
  chunk_steps: Steps = 512

  def __post_init__(self) -> None:
    self.encoder.truncated(self.layer)
    super().__post_init__()

  def parameter_shapes(self) -> shapes.Shapes:
    """Returns the shapes of the parameters of the tokenizer."""
    encoder = self.encoder.truncated(self.layer)
    return shapes.clustered(encoder.parameter_shapes(), encoder.dim, self.num_clusters)

  @property
  def receptive_field(self) -> Reach:
    """The numbers of earlier and later steps that the token of a step depends on."""
    return self.encoder.receptive_field(self.layer)


class SemanticTokenizer(LogMelTokenizer):
  """A tokenizer that clusters the features of a w2v-BERT encoder."""

  config: SemanticTokenizerConfig

  def encode_chunks(
    self, inputs: Float[np.ndarray | Array, "batch padded"], ends: Int[np.ndarray | Array, "batch"]
  ) -> TokenizedFeatures:
    return _encode(self.config, self.params, inputs, ends)


def _encode_fn(
  config: SemanticTokenizerConfig,
  params: Params,
  padded: Float[Array, "batch padded"],
  ends: Int[Array, "batch"],
) -> TokenizedFeatures:
  """Encodes chunks of waveform with their margins; masks steps that begin at `ends` or later."""
  valid = -(-ends // config.encoder.hop_length)
  encoder = config.encoder.truncated(config.layer)
  log_mel = normalised_log_mel(power_spectrum(padded, encoder.features), encoder.features)
  inside = jnp.arange(log_mel.shape[1] // FRAMES_PER_STEP)[None] < valid[:, None]
  model = ConformerEncoder(encoder)
  features = modules.apply(model, params["encoder"], log_mel, inside)
  return whitened(features.astype(jnp.float32), params)


_encode = StoredProgram(_encode_fn, static_argnums=(0,))
