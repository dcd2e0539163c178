"""The game between the codec and its discriminators, a round at a time.

Source: SoundStream, sections III-D and III-E.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from audiolm_jax.codec import losses
from audiolm_jax.codec.discriminators import DiscriminatorConfig, Discriminators
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer


class Round(NamedTuple):
  """What comes of a round.

  Attributes:
    values: of the generator's adversarial and feature losses.
    gradients: theirs at the generated waveform.
    loss: of the discriminators.
    gradient_norm: of it.
    params: of the discriminators, after their update.
    optimizer: theirs.
  """

  values: Float[Array, "2"]
  gradients: Float[Array, "2 batch samples"]
  loss: Float[Array, ""]
  gradient_norm: Float[Array, ""]
  params: Any
  optimizer: Any


class Adversary:
  """The discriminators with their optimizer; it holds no arrays."""

  def __init__(self, config: DiscriminatorConfig, optimizer: OptimizerConfig):
    self._discriminators = Discriminators(config)
    self._optimizer = make_optimizer(optimizer)

  def init(self, rng: Key[Array, ""], waveform: Float[Array, "batch samples"]) -> tuple[Any, Any]:
    """Fresh parameters, which carry their logical axes, and optimizer state."""
    params = self._discriminators.init(rng, waveform)["params"]
    return params, self._optimizer.init(params)

  def play(
    self,
    params: Any,
    optimizer: Any,
    waveform: Float[Array, "batch samples"],
    generated: Float[Array, "batch samples"],
  ) -> Round:
    """Both sides learn from the other as it was before the round."""
    # Side by side, not one after the other: each pair stays on the device that has the clip.
    pairs = jnp.stack([waveform, generated], axis=1).reshape(-1, waveform.shape[1])

    def tell_apart(params):
      judgement = self._judge(params, pairs)
      judgement = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), judgement)
      real, layers = jax.tree.map(lambda x: x[:, 0], judgement)
      fake, _ = jax.tree.map(lambda x: x[:, 1], judgement)
      return losses.hinge_discriminator_loss(real, fake), layers

    (loss, real), gradient = jax.value_and_grad(tell_apart, has_aux=True)(params)

    def fool(generated):
      logits, layers = self._judge(params, generated)
      return jnp.stack(
        [losses.hinge_generator_loss(logits), losses.feature_matching_loss(real, layers)]
      )

    values, to_waveform = jax.vjp(fool, generated)
    (gradients,) = jax.vmap(to_waveform)(jnp.eye(2))
    updates, optimizer = self._optimizer.update(gradient, optimizer, params)
    return Round(
      values,
      gradients,
      loss,
      optax.tree.norm(gradient),
      optax.apply_updates(params, updates),
      optimizer,
    )

  def rest(self, params: Any, optimizer: Any, generated: Float[Array, "batch samples"]) -> Round:
    """What there is where no round is played."""
    nothing = jnp.zeros(())
    return Round(
      jnp.zeros(2), jnp.zeros((2, *generated.shape)), nothing, nothing, params, optimizer
    )

  def _judge(self, params: Any, waveform: Array):
    return self._discriminators.apply({"params": params}, waveform)
