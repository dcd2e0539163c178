"""Updates the discriminators of codec training, and computes the adversarial losses of the codec.

Source: SoundStream, sections III-D and III-E.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Key, PyTree

from audiolm_jax.codec import losses
from audiolm_jax.codec.discriminators import DiscriminatorConfig, Discriminators
from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Params
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import apply_updates


class DiscriminatorUpdate(NamedTuple):
  """The result of one update of the discriminators.

  Attributes:
    values: adversarial loss and feature matching loss of the generator.
    gradients: gradients of these two losses with respect to the generated waveform.
    loss: hinge loss of the discriminators.
    gradient_norm: global norm of the gradient of `loss` with respect to the parameters.
    params: updated parameters of the discriminators.
    optimizer: updated state of the optimizer of the discriminators.
  """

  values: Float[Array, "2"]
  gradients: Float[Array, "2 batch samples"]
  loss: Float[Array, ""]
  gradient_norm: Float[Array, ""]
  params: Params
  optimizer: PyTree


class Adversary:
  """The discriminators and their optimizer; contains no arrays.

  Args:
    config: sizes of the discriminators.
    optimizer: configuration of the optimizer.
  """

  def __init__(self, config: DiscriminatorConfig, optimizer: OptimizerConfig):
    self._discriminators = Discriminators(config)
    self._optimizer = make_optimizer(optimizer)

  def init(
    self, rng: Key[Array, ""], waveform: Float[Array, "batch samples"]
  ) -> tuple[Params, PyTree]:
    """Returns new parameters, boxed with logical axis names, and the state of the optimizer."""
    params = self._discriminators.init(rng, waveform)["params"]
    return params, self._optimizer.init(params)

  def update(
    self,
    params: Params,
    optimizer: PyTree,
    waveform: Float[Array, "batch samples"],
    generated: Float[Array, "batch samples"],
    active: bool,
  ) -> DiscriminatorUpdate:
    """Updates the discriminators, and computes the losses of the generator from `params`.

    Args:
      params: parameters of the discriminators before the update.
      optimizer: state of the optimizer before the update.
      waveform: waveforms of recordings.
      generated: the reconstruction of each waveform by the codec.
      active: Python bool, static; if False, nothing is updated and all losses are zero.
    """
    if not active:
      zero = jnp.zeros(())
      return DiscriminatorUpdate(
        jnp.zeros(2), jnp.zeros((2, *generated.shape)), zero, zero, params, optimizer
      )
    # Stacked as pairs, not concatenated, so that each pair stays on the device with the clip.
    pairs = jnp.stack([waveform, generated], axis=1).reshape(-1, waveform.shape[1])

    def discriminator_loss(params):
      outputs = self._apply(params, pairs)
      outputs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), outputs)
      real, layers = jax.tree.map(lambda x: x[:, 0], outputs)
      fake, _ = jax.tree.map(lambda x: x[:, 1], outputs)
      return losses.hinge_discriminator_loss(real, fake), layers

    (loss, layers_of_real), gradient = jax.value_and_grad(discriminator_loss, has_aux=True)(params)

    def generator_losses(generated):
      logits, layers = self._apply(params, generated)
      return jnp.stack(
        [losses.hinge_generator_loss(logits), losses.feature_matching_loss(layers_of_real, layers)]
      )

    values, to_waveform = jax.vjp(generator_losses, generated)
    (gradients,) = jax.vmap(to_waveform)(jnp.eye(2))
    updates, optimizer = self._optimizer.update(gradient, optimizer, params)
    return DiscriminatorUpdate(
      values,
      gradients,
      loss,
      optax.tree.norm(gradient),
      apply_updates(params, updates),
      optimizer,
    )

  def _apply(self, params: Params, waveform: Array) -> tuple[list[Array], list[list[Array]]]:
    """Returns the logits and the outputs of the layers of each discriminator."""
    return modules.apply(self._discriminators, params, waveform)
