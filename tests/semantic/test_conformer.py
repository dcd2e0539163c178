import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core import modules
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.layers import Remat
from audiolm_jax.semantic.conformer import (
  ConformerConfig,
  ConformerEncoder,
  StridedConv2d,
  band_to_square,
  truncate_params,
)

STEPS = 40


def make(config, seed=0):
  model = ConformerEncoder(config)
  features = jax.random.normal(
    jax.random.key(seed), (2, 4 * STEPS, config.features.num_mels), jnp.float32
  )
  valid = jnp.ones((2, STEPS), bool)
  params = nn.unbox(jax.jit(model.init)(jax.random.key(1), features, valid))["params"]
  return model, params, features, valid


def test_four_frames_become_one_step_of_the_right_width(encoder_config):
  model, params, features, valid = make(encoder_config)
  y = modules.apply(model, params, features, valid)
  assert y.shape == (2, STEPS, encoder_config.dim)
  assert np.isfinite(y).all()


def test_padded_equals_unpadded(encoder_config):
  model, params, features, _ = make(encoder_config)
  short = 23
  alone = modules.apply(model, params, features[:, : 4 * short], jnp.ones((2, short), bool))
  valid = jnp.broadcast_to(jnp.arange(STEPS) < short, (2, STEPS))
  padded = modules.apply(model, params, features, valid)
  np.testing.assert_allclose(padded[:, :short], alone, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_step_sees_its_receptive_field_and_nothing_else(encoder_config, layer):
  config = encoder_config.truncated(layer)
  field = encoder_config.receptive_field(layer)
  model, params, features, valid = make(config)
  at = 25

  def depends_on(frames):
    return jnp.abs(modules.apply(model, params, frames, valid)[0, at]).sum()

  gradient = jnp.abs(jax.grad(depends_on)(features))[0].sum(-1).reshape(STEPS, 4).sum(-1)
  seen = np.flatnonzero(np.asarray(gradient) > 0)
  # Of the steps a window may overlap, one on each side belongs to the front end's samples.
  assert seen.min() == at - field.left
  assert seen.max() == at + field.right - 1


def test_receptive_field_of_the_last_layer_adds_up(encoder_config):
  assert encoder_config.receptive_field() == (1 + 3 * (3 + 1), 1 + 3 * (2 + 1))


def test_scanned_layers_equal_separate_layers(encoder_config):
  config = dataclasses.replace(encoder_config, scan_layers=True, remat=Remat.FULL)
  scanned, params, features, valid = make(config)
  separate = {"subsampling": params["subsampling"]}
  for name, depth in (("stacks_0", 1), ("stacks_1", 2)):
    layers = params[name]["layers"]
    separate[name] = {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], layers) for i in range(depth)}
  expected = modules.apply(ConformerEncoder(encoder_config), separate, features, valid)
  actual = modules.apply(scanned, params, features, valid)
  np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_truncated_parameters_give_the_layer_of_the_whole_model(encoder_config, scan_layers):
  config = dataclasses.replace(encoder_config, scan_layers=scan_layers)
  model, params, features, valid = make(config)

  def by_hand(module, features, valid):
    x = module.stack(0, module.subsample(features, valid), valid)
    stack = module.variables["params"]["stacks_1"]
    first = jax.tree.map(lambda x: x[:1], stack) if scan_layers else {"layer_0": stack["layer_0"]}
    return x, first

  x, first = modules.apply(model, params, features, valid, method=by_hand)
  assert config.truncated(2).stacks == (1, 1)
  kept = truncate_params(params, config, 2)
  assert jax.tree.structure(kept["stacks_1"]) == jax.tree.structure(first)
  y = modules.apply(ConformerEncoder(config.truncated(2)), kept, features, valid)
  shallow = ConformerEncoder(config.truncated(1)).apply(
    {"params": truncate_params(params, config, 1)}, features, valid
  )
  np.testing.assert_allclose(shallow, x, atol=1e-6)  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union
  again = ConformerEncoder(config.truncated(2)).apply(
    {"params": {**kept, "stacks_1": first}}, features, valid
  )
  np.testing.assert_allclose(y, again, atol=1e-6)  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union


def test_every_parameter_has_an_axis_name_per_dimension(encoder_config):
  for scan_layers in (False, True):
    config = dataclasses.replace(encoder_config, scan_layers=scan_layers)
    boxed = jax.eval_shape(
      ConformerEncoder(config).init,
      jax.random.key(0),
      jnp.zeros((1, 16, config.features.num_mels)),
      jnp.ones((1, 4), bool),
    )["params"]
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    assert all(isinstance(leaf, nn.LogicallyPartitioned) for leaf in leaves)
    assert all(len(leaf.names) == leaf.value.ndim for leaf in leaves)


def test_dropout_needs_its_key_and_changes_the_features(encoder_config):
  model, params, features, valid = make(dataclasses.replace(encoder_config, dropout_rate=0.5))
  clean = modules.apply(model, params, features, valid)
  rngs = {"dropout": jax.random.key(0)}
  noisy = modules.apply(model, params, features, valid, False, rngs=rngs)
  assert jnp.abs(clean - noisy).max() > 1e-2


def test_bfloat16_encoder_stays_near_float32(encoder_config):
  model, params, features, valid = make(encoder_config)
  half = ConformerEncoder(dataclasses.replace(encoder_config, dtype="bfloat16"))
  expected = modules.apply(model, params, features, valid)
  actual = modules.apply(half, params, features, valid)
  assert actual.dtype == jnp.bfloat16
  assert jnp.abs(actual.astype(jnp.float32) - expected).mean() < 0.05


def test_band_lands_on_its_diagonals():
  left, right, steps = 2, 1, 6
  band = jnp.arange(steps * 4, dtype=jnp.float32).reshape(1, 1, steps, 4) + 1
  square = np.asarray(band_to_square(band, left))[0, 0]
  expected = np.zeros((steps, steps))
  for i in range(steps):
    for w in range(left + right + 1):
      if 0 <= i + w - left < steps:
        expected[i, i + w - left] = band[0, 0, i, w]
  np.testing.assert_array_equal(square, expected)


def test_strided_convolution_equals_the_library_convolution():
  x = jax.random.normal(jax.random.key(0), (2, 12, 8, 3))
  module = StridedConv2d(5, "float32")
  params = nn.unbox(module.init(jax.random.key(1), x))["params"]
  expected = jax.lax.conv_general_dilated(
    x,
    params["kernel"].reshape(3, 3, 3, 5),
    (2, 2),
    ((1, 0), (1, 0)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  np.testing.assert_allclose(modules.apply(module, params, x), expected, atol=1e-5)


def test_impossible_configurations_are_refused():
  with pytest.raises(ConfigError, match="num_heads"):
    ConformerConfig(dim=10, num_heads=4)
  with pytest.raises(ConfigError, match="odd"):
    ConformerConfig(kernel_size=4)
  with pytest.raises(ConfigError, match=r"0\.\.24"):
    ConformerConfig().truncated(25)
