import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.codec.losses import (
  ComplexLossConfig,
  SpectralLossConfig,
  complex_spectral_loss,
  feature_matching_loss,
  hinge_discriminator_loss,
  hinge_generator_loss,
  spectral_loss,
)
from audiolm_jax.dsp.mel import mel_filterbank

from .conftest import chirp

CONFIG = SpectralLossConfig(windows=(64, 256, 1024))


@pytest.mark.parametrize("window", SpectralLossConfig().windows)
def test_no_mel_band_is_empty_at_any_scale(window):
  filters = mel_filterbank(window // 2 + 1, min(64, window // 4), 16_000)
  assert np.count_nonzero(filters.sum(0) > 0.5) > filters.shape[1] // 2


def test_spectral_loss_is_least_for_the_target_itself():
  target = jnp.asarray(chirp(4096))[None]
  same = spectral_loss(target, target, CONFIG)
  quieter = spectral_loss(target, 0.5 * target, CONFIG)
  noise = 0.1 * jax.random.normal(jax.random.key(0), target.shape)
  assert float(same) < 1e-3 < float(quieter) < float(spectral_loss(target, noise, CONFIG))


def test_a_linear_weight_gives_weight_to_loud_bins():
  target = chirp(16_384)[None]
  time = np.arange(target.shape[1]) / 16_000
  loud = 0.5 * np.sin(2 * np.pi * 500 * time)[None]
  quiet = 1e-3 * np.sin(2 * np.pi * 6_000 * time)[None]
  sound = (loud + quiet + 1e-5 * target).astype(np.float32)
  relative = dataclasses.replace(CONFIG, linear_weight=4.0)
  even = dataclasses.replace(CONFIG, linear_weight=0.0)

  def ratio(config):
    change_loud = spectral_loss(sound, (0.8 * loud + quiet + 1e-5 * target), config)
    change_quiet = spectral_loss(sound, (loud + 0.2 * quiet + 1e-5 * target), config)
    return float(change_loud / change_quiet)

  assert ratio(relative) > 2 * ratio(even)
  assert float(spectral_loss(sound, sound, relative)) < 1e-6
  doubled = spectral_loss(2 * sound, 2 * (0.8 * loud + quiet + 1e-5 * target), relative)
  once = spectral_loss(sound, 0.8 * loud + quiet + 1e-5 * target, relative)
  np.testing.assert_allclose(doubled, once, rtol=0.05)  # independent of the level, but for floors


def test_spectral_loss_of_silence_has_a_finite_gradient():
  silence = jnp.zeros((1, 4096))
  gradient = jax.grad(lambda g: spectral_loss(silence, g, CONFIG))(silence)
  assert bool(jnp.all(jnp.isfinite(gradient)))


def test_hinge_losses_are_zero_beyond_the_margin_and_grow_inside_it():
  real, fake = [jnp.full((3,), 2.0)], [jnp.full((3,), -2.0)]
  assert float(hinge_discriminator_loss(real, fake)) == 0.0
  assert float(hinge_discriminator_loss(fake, real)) == 6.0
  assert float(hinge_generator_loss(fake)) == 3.0


def test_feature_matching_is_zero_for_equal_layers_and_ignores_their_scale():
  layers = [[jnp.arange(1.0, 5.0)], [jnp.ones((2, 2))]]
  doubled = jax.tree.map(lambda x: 2 * x, layers)
  assert float(feature_matching_loss(layers, layers)) == 0.0
  hundred = jax.tree.map(lambda x: 100 * x, (layers, doubled))
  np.testing.assert_allclose(
    feature_matching_loss(layers, doubled), feature_matching_loss(*hundred), rtol=1e-5
  )


def test_log_floor_is_where_quiet_differences_stop_counting():
  loud, quiet = (SpectralLossConfig(windows=(256,), log_floor=floor) for floor in (1e-2, 1e-6))
  target = 1e-4 * jnp.asarray(chirp(4096))[None]
  silence = jnp.zeros_like(target)
  assert float(spectral_loss(target, silence, loud)) < 0.02
  assert float(spectral_loss(target, silence, quiet)) > 0.5


def test_complex_loss_sees_a_phase_that_magnitudes_do_not_show():
  target = jnp.asarray(chirp(4096))[None]
  config = ComplexLossConfig(windows=(256, 512))
  same = complex_spectral_loss(target, target, config)
  inverted = complex_spectral_loss(target, -target, config)
  assert float(spectral_loss(target, -target, CONFIG)) < 1e-3
  assert float(same) < 0.02
  # An inverted bin is twice its magnitude away.
  np.testing.assert_allclose(inverted, 2.0, atol=0.02)


def test_complex_loss_does_not_depend_on_the_level_of_loud_sounds():
  target = jnp.asarray(chirp(4096))[None]
  noise = 0.1 * jax.random.normal(jax.random.key(0), target.shape)
  config = ComplexLossConfig()
  loud, soft = (
    complex_spectral_loss(gain * target, gain * (target + noise), config) for gain in (1.0, 0.5)
  )
  np.testing.assert_allclose(loud, soft, rtol=0.02)


def test_complex_loss_of_silence_has_a_finite_gradient():
  silence = jnp.zeros((1, 2048))
  loss = lambda x: complex_spectral_loss(silence, x, ComplexLossConfig((256,)))  # noqa: E731
  assert np.all(np.isfinite(jax.jit(jax.grad(loss))(silence)))
