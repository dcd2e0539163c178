import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from audiolm_jax.codec import losses
from audiolm_jax.codec.discriminators import DiscriminatorConfig, Discriminators
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


def test_a_round_gives_the_gradient_of_each_loss_at_the_waveform():
  adversary, (params, optimizer) = new_adversary()
  judged = jax.jit(adversary.play)(params, optimizer, REAL, MADE)
  judges = Discriminators(CONFIG)
  _, real_layers = judges.apply({"params": params}, REAL)

  def losses_of(generated):
    logits, layers = judges.apply({"params": params}, generated)
    return jnp.stack(
      [losses.hinge_generator_loss(logits), losses.feature_matching_loss(real_layers, layers)]
    )

  np.testing.assert_allclose(judged.values, losses_of(MADE), rtol=1e-4)
  expected = jax.jacrev(losses_of)(MADE)
  scale = jnp.abs(expected).max()
  np.testing.assert_allclose(judged.gradients, expected, atol=1e-4 * scale)


def test_the_judges_learn_to_tell_apart_what_does_not_change():
  adversary, (params, optimizer) = new_adversary()
  play = jax.jit(adversary.play)
  found = []
  for _ in range(60):
    judged = play(params, optimizer, REAL, MADE)
    params, optimizer = judged.params, judged.optimizer
    found.append(float(judged.loss))
  assert found[-1] < 0.5 * found[0]


def test_a_rest_changes_nothing():
  adversary, (params, optimizer) = new_adversary()
  judged = adversary.rest(params, optimizer, MADE)
  assert judged.params is params and judged.optimizer is optimizer
  assert not judged.values.any() and not judged.gradients.any()
  assert judged.gradients.shape == (2, *MADE.shape)
