"""The network that trains a unit encoder: heads for frame labels and for characters.

An optional vector quantizer between the encoder and the heads maps each step to one of a few units.
The heads then read units instead of features. The encoder thus learns features that lose little
information when k-means replaces them by the nearest centroid.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.semantic.conformer import dense, layer_norm
from audiolm_jax.semantic.kmeans import nearest_centroid
from audiolm_jax.semantic.unit_encoder import (
  ContextBlock,
  UnitEncoder,
  UnitEncoderConfig,
  averaged_over_steps,
)

# Name of the parameter with the entries of the quantizer.
CODEBOOK = "codebook"
# The distances between the taps of the blocks behind the quantizer, in frames.
_DILATIONS = (1, 2, 4, 8)


class QuantizedSteps(NamedTuple):
  """The result of the vector quantizer.

  Attributes:
    steps: mean features of each step, before the quantizer.
    vectors: the nearest entry of the codebook for each step.
    units: indices of these entries.
  """

  steps: Float[Array, "batch steps dim"]
  vectors: Float[Array, "batch steps dim"]
  units: Int[Array, "batch steps"]


class Predictions(NamedTuple):
  """The outputs of `UnitClassifier`.

  Attributes:
    labels: logits of the frame labels.
    characters: logits of the CTC blank (index 0) and the characters for each step; None if
      `num_characters` is 0.
    quantized: result of the quantizer; None if `num_units` is 0.
  """

  labels: Float[Array, "batch frames labels"]
  characters: Float[Array, "batch steps symbols"] | None
  quantized: QuantizedSteps | None


class UnitClassifier(nn.Module):
  """A `UnitEncoder`, an optional vector quantizer that is followed by blocks, and heads.

  Attributes:
    encoder_config: shape of the encoder.
    num_labels: number of frame labels.
    num_units: number of entries in the quantizer; 0 for no quantizer.
    num_characters: number of characters; 0 for no head for characters.

  Sources: Du et al., CosyVoice (arXiv 2407.05407), section 3.1, for a quantizer within an encoder
  that learns to recognise speech; van den Oord et al. (arXiv 1711.00937) for the gradients of the
  quantizer.
  """

  encoder_config: UnitEncoderConfig
  num_labels: int
  num_units: int = 0
  num_characters: int = 0

  def setup(self) -> None:
    config = self.encoder_config
    self.encoder = UnitEncoder(config)
    self.head = dense(self.num_labels, ("embed", "vocab"), "float32")
    if self.num_units:
      shape, axes = (self.num_units, config.dim), ("vocab", "embed")
      self.codebook = modules.param(self, CODEBOOK, nn.initializers.normal(1.0), axes, shape)
      self.input = dense(config.dim, ("conv_in", "embed"), "float32")
      self.blocks = [ContextBlock(config.kernel_size, d, config.expansion) for d in _DILATIONS]
      self.norm = layer_norm("float32", name="norm")
    if self.num_characters:
      self.character_head = dense(1 + self.num_characters, ("embed", "vocab"), "float32")

  def __call__(
    self, log_mel: Float[Array, "batch frames mels"], inside: Bool[Array, "batch frames"]
  ) -> Predictions:
    """Returns the logits of all frames and steps; see `UnitEncoder` for the arguments."""
    count = self.encoder_config.frames_per_step
    features = self.encoder(log_mel, inside)
    quantized = None
    if self.num_units:
      steps = averaged_over_steps(features, inside, count)
      units = nearest_centroid(jax.lax.stop_gradient(steps), self.codebook)
      quantized = QuantizedSteps(steps, self.codebook[units], units)
      # The gradients pass through the quantizer as if it were the identity.
      passed = steps + jax.lax.stop_gradient(quantized.vectors - steps)
      features = jnp.repeat(self.input(passed), count, axis=1)[:, : log_mel.shape[1]]
      for block in self.blocks:
        features = block(features, inside[..., None])
      features = self.norm(features)
    characters = None
    if self.num_characters:
      characters = self.character_head(averaged_over_steps(features, inside, count))
    return Predictions(self.head(features), characters, quantized)

  def flops(self, frames: int) -> float:
    """Returns the FLOPs of the matrix products for one row of `frames` frames."""
    config = self.encoder_config
    steps = frames / config.frames_per_step
    products = frames * config.dim * self.num_labels
    products += steps * config.dim * (1 + self.num_characters if self.num_characters else 0)
    if self.num_units:
      products += steps * config.dim * (self.num_units + config.dim)
      products += frames * len(_DILATIONS) * 2 * config.expansion * config.dim**2
    return config.flops(frames) + 2.0 * products
