import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from audiolm_jax.codec import losses
from audiolm_jax.codec.discriminators import DiscriminatorConfig, Discriminators
from audiolm_jax.core import modules
from audiolm_jax.trainables.adversary import Adversary
from audiolm_jax.training.optimizers import OptimizerConfig

from .conftest import chirp

CONFIG = DiscriminatorConfig(
  wave_scales=(1,), wave_channels=2, wave_max_channels=4, stft_windows=(256,), stft_channels=2
)
REAL = jnp.stack([jnp.asarray(chirp(3200, seed)) for seed in range(2)])
MADE = 0.5 * REAL[:, ::-1]


def new_adversary():
  adversary = Adversary(CONFIG, OptimizerConfig(name="adam", learning_rate=3e-3))
  return adversary, meta.unbox(adversary.init(jax.random.key(0), REAL))


def update(adversary):
  return jax.jit(lambda *arguments: adversary.update(*arguments, True))


def test_an_update_returns_the_gradient_of_each_loss_at_the_waveform():
  adversary, (params, optimizer) = new_adversary()
  found = update(adversary)(params, optimizer, REAL, MADE)
  discriminators = Discriminators(CONFIG)
  _, real_layers = modules.apply(discriminators, params, REAL)

  def losses_of(generated):
    logits, layers = modules.apply(discriminators, params, generated)
    return jnp.stack(
      [losses.hinge_generator_loss(logits), losses.feature_matching_loss(real_layers, layers)]
    )

  np.testing.assert_allclose(found.values, losses_of(MADE), rtol=1e-4)
  expected = jax.jacrev(losses_of)(MADE)
  scale = jnp.abs(expected).max()
  np.testing.assert_allclose(found.gradients, expected, atol=1e-4 * scale)  # pyright: ignore[reportArgumentType, reportCallIssue]: trees of arrays


def test_the_discriminators_learn_to_separate_two_fixed_batches():
  adversary, (params, optimizer) = new_adversary()
  step = update(adversary)
  losses_so_far = []
  for _ in range(60):
    found = step(params, optimizer, REAL, MADE)
    params, optimizer = found.params, found.optimizer
    losses_so_far.append(float(found.loss))
  assert losses_so_far[-1] < 0.5 * losses_so_far[0]


def test_inactive_discriminators_are_not_updated_and_have_no_losses():
  adversary, (params, optimizer) = new_adversary()
  found = adversary.update(params, optimizer, REAL, MADE, False)
  assert found.params is params and found.optimizer is optimizer
  assert not found.values.any() and not found.gradients.any()
  assert found.gradients.shape == (2, *MADE.shape)
