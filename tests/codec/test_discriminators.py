import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from audiolm_jax.codec import discriminators
from audiolm_jax.codec.discriminators import DiscriminatorConfig, Discriminators

from .conftest import chirp

SMALL = DiscriminatorConfig(wave_channels=2, wave_max_channels=8, stft_channels=2)


def _discriminate(config, samples=16_000):
  waveform = jnp.asarray(chirp(samples))[None]
  model = Discriminators(config)
  return model.apply(meta.unbox(model.init(jax.random.key(0), waveform)), waveform)


def test_the_paper_has_three_waveform_discriminators_and_one_of_the_stft():
  logits, features = _discriminate(SMALL)
  assert len(logits) == len(features) == 4


def test_the_waveform_discriminators_down_sample_by_256_at_their_own_rate():
  logits, _ = _discriminate(SMALL)
  assert [x.shape[1] for x in logits[:3]] == [-(-16_000 // (256 * s)) for s in (1, 2, 4)]


def test_the_stft_discriminator_gives_one_logit_per_eight_frames():
  logits, features = _discriminate(SMALL)
  frames = 16_000 // 256 - 3
  assert logits[3].shape == (1, -(-frames // 8))
  assert features[3][-1].shape[2] == 8  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]: Flax declares a union


def test_paper_channels_are_capped_at_1024():
  shapes = jax.eval_shape(
    Discriminators(DiscriminatorConfig()).init, jax.random.key(0), jnp.zeros((1, 16_000))
  )
  kernel = meta.unbox(shapes)["params"]["wave_1"]["down_3"]["kernel"]
  assert kernel.shape == (41, 4, 1024)


@pytest.mark.parametrize("time", [64, 63, 61, 5])
def test_a_grouped_convolution_is_that_of_flax(time):
  x = jnp.asarray(np.random.default_rng(time).normal(size=(2, time, 8)), jnp.float32)
  ours = discriminators._GroupedConv(16, kernel_size=41, stride=4, groups=2)
  theirs = nn.Conv(16, (41,), (4,), feature_group_count=2)
  params = meta.unbox(ours.init(jax.random.key(0), x))

  def output_and_gradients(model):
    loss = lambda p, x: jnp.sum(model.apply(p, x) ** 2)  # noqa: E731
    return model.apply(params, x), jax.grad(loss, argnums=(0, 1))(params, x)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    output_and_gradients(ours),
    output_and_gradients(theirs),
  )


def test_gradients_reach_the_waveform_from_every_discriminate():
  waveform = jnp.asarray(chirp(8000))[None]
  model = Discriminators(SMALL)
  params = meta.unbox(model.init(jax.random.key(0), waveform))
  for i in range(4):
    gradient = jax.grad(lambda w, i=i: jnp.sum(model.apply(params, w)[0][i]))(waveform)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
