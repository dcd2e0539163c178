"""Semantic tokens of a published HuBERT: features of one layer, and the centroids nearest to them.

Source: Hsu et al., "HuBERT", 2021 (arXiv 2106.07447), section III-B; and for the tokens Lakhotia et
al., "On Generative Spoken Language Modeling from Raw Audio", 2021 (arXiv 2102.01192), section 3.1.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from audiolm_jax.errors import ConfigError
from audiolm_jax.pretrained.hubert import (
  HubertConfig,
  HubertEncoder,
  convert_encoder,
  read_config,
)
from audiolm_jax.pretrained.weights import PublishedWeights
from audiolm_jax.semantic.conformer import ReceptiveField
from audiolm_jax.semantic.kmeans import nearest_centroid
from audiolm_jax.semantic.spec import SemanticSpec
from audiolm_jax.semantic.windowed_tokenizer import Encoded, Window, WindowedTokenizer


@dataclasses.dataclass(frozen=True)
class HubertTokenizerConfig:
  """Defaults: layer 9 of the base model, K = 500, as units of HuBERT are most often made.

  Attributes:
    encoder: as it was trained; only its first `layer` blocks are used.
    layer: transformer block, counted from 1.
    num_clusters: ids are in [0, num_clusters).
    window_steps: a clip of up to that many tokens is heard as a whole, 30 s at the defaults.
    context_steps: of a longer clip's window, the tokens at either end that are only heard.
  """

  encoder: HubertConfig = HubertConfig()
  layer: int = 9
  num_clusters: int = 500
  window_steps: int = 1500
  context_steps: int = 250

  def __post_init__(self) -> None:
    if not 1 <= self.layer <= self.encoder.num_layers:
      raise ConfigError(
        f"layer {self.layer} is none of the model's blocks 1 to {self.encoder.num_layers}"
      )
    if not 1 < self.context_steps < self.window_steps / 2:
      raise ConfigError(
        f"context_steps {self.context_steps} must be at least 2 and less than half of "
        f"window_steps {self.window_steps}"
      )

  @property
  def receptive_field(self) -> ReceptiveField:
    """Steps heard with what a window keeps; the model itself hears the whole clip."""
    return ReceptiveField(self.context_steps, self.context_steps)


class HubertTokenizer(WindowedTokenizer):
  """Tokens of a HuBERT, one for each begun hop.

  The model makes a frame of 400 samples every 320, so one or two fewer than there are begun hops:
  the last frame's token is held. A clip longer than a window is heard window by window, each as if
  it were a clip.
  """

  config: HubertTokenizerConfig

  @property
  def spec(self) -> SemanticSpec:
    encoder = self.config.encoder
    return SemanticSpec(encoder.sample_rate, encoder.hop_length, self.config.num_clusters)

  def window_input(
    self, waveform: Float[np.ndarray, "samples"], window: Window
  ) -> tuple[Float[np.ndarray, "padded"], int]:
    """With zeros where the clip has no more; and the samples of the clip, one frame at least."""
    c = self.config.encoder
    first = window.start * c.hop_length
    length = (window.size - 1) * c.hop_length + c.frame_length
    piece = np.asarray(waveform[first : first + length], np.float32)
    return np.pad(piece, (0, length - len(piece))), max(len(piece), c.frame_length)

  def encode_windows(
    self, padded: Float[np.ndarray, "batch padded"], valid: Int[np.ndarray, "batch"]
  ) -> Encoded:
    return _encode(self.config, self.params, padded, valid)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: HubertTokenizerConfig,
  params: Mapping[str, Any],
  padded: Float[Array, "batch padded"],
  valid: Int[Array, "batch"],
) -> Encoded:
  """Windows of waveform, the first `valid` samples of each; the last whole frame is held."""
  c = config.encoder
  with jax.default_matmul_precision("float32"):  # the published tokens were made so
    features = HubertEncoder(c, config.layer).apply({"params": params["encoder"]}, padded, valid)
    last = (valid - c.frame_length) // c.hop_length
    held = jnp.minimum(jnp.arange(features.shape[1])[None], last[:, None])
    features = jnp.take_along_axis(features, held[..., None], axis=1)
    features = (features - params["mean"]) / params["scale"]
    # Distances are the same from any origin; this one leaves float32 the most digits for them.
    origin = params["centroids"].mean(axis=0)
    return Encoded(features, nearest_centroid(features - origin, params["centroids"] - origin))


def convert(
  published: Mapping[str, Any],
  weights: PublishedWeights,
  *,
  layer: int,
  centroids: Float[np.ndarray, "clusters dim"] | None = None,
) -> HubertTokenizer:
  """The tokenizer of a published HuBERT in the format of transformers.

  Args:
    published: its `config.json`.
    weights: its tensors by name, weight-normalized or plain.
    layer: transformer block, counted from 1, whose features the centroids are of.
    centroids: cluster centres of those features; without them there is one at zero, for a
      tokenizer that is yet to be fitted.
  Raises:
    ConfigError, DataError: a tensor is missing, left over or of another shape, there is no such
      layer, or the centroids are of another dimension.
  """
  encoder = read_config(published)
  if centroids is None:
    centroids = np.zeros((1, encoder.dim), np.float32)
  config = HubertTokenizerConfig(encoder, layer, len(centroids))
  if centroids.shape[1] != encoder.dim:
    raise ConfigError(
      f"the centroids have {centroids.shape[1]} dimensions, the model's features {encoder.dim}; "
      "take those of this model"
    )
  params = {
    "encoder": convert_encoder(encoder, weights, layer),
    "mean": np.zeros(encoder.dim, np.float32),
    "scale": np.ones(encoder.dim, np.float32),
    "centroids": centroids,
  }
  return HubertTokenizer(config, params)
