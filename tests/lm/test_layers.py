"""The matrix product and the norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.lm.layers import Projection, RMSNorm


def test_projection_contracts_its_input_axes():
  layer = Projection((2, 3, 5), ("heads", "kv", "embed"), jnp.float32, num_inputs=2)
  x = jax.random.normal(jax.random.key(0), (4, 7, 2, 3))
  variables = meta.unbox(layer.init(jax.random.key(1), x))
  kernel = variables["params"]["kernel"]
  expected = np.einsum("bthk,hke->bte", x, kernel)
  np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union


@pytest.mark.parametrize("rows", [1, 3, 8, 9])
def test_a_large_projection_of_few_rows_is_the_same_product(rows):
  layer = Projection((8, 128, 1024), ("heads", "kv", "embed"), jnp.float32, num_inputs=2)
  x = jax.random.normal(jax.random.key(0), (rows, 1, 8, 128))
  kernel = 0.03 * jax.random.normal(jax.random.key(1), layer.shape)
  y = jax.jit(layer.apply)({"params": {"kernel": kernel}}, x)
  assert y.shape == (rows, 1, 1024)
  np.testing.assert_allclose(y, np.einsum("bthk,hke->bte", x, kernel), atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_projection_keeps_the_size_of_its_input_times_its_scale(scale):
  layer = Projection((256, 256), ("embed", "mlp"), jnp.float32, scale=scale)
  x = jax.random.normal(jax.random.key(0), (64, 256))
  y, _ = layer.init_with_output(jax.random.key(1), x)
  assert float(jnp.std(y)) == pytest.approx(scale, rel=0.05)


def test_projection_sums_in_float32():
  """4096 addends of 1 are beyond what bfloat16 counts one by one."""
  layer = Projection((4096, 1), ("embed", "mlp"), jnp.bfloat16)
  variables = {"params": {"kernel": jnp.ones((4096, 1))}}
  y = layer.apply(variables, jnp.ones((1, 4096)))
  assert y.dtype == jnp.bfloat16  # pyright: ignore[reportAttributeAccessIssue]: Flax declares a union
  assert float(y[0, 0]) == 4096.0  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union


def test_norm_ignores_the_size_of_its_input():
  layer = RMSNorm(jnp.float32)
  x = jax.random.normal(jax.random.key(0), (3, 16))
  variables = meta.unbox(layer.init(jax.random.key(1), x))
  y = layer.apply(variables, x)
  np.testing.assert_allclose(jnp.mean(jnp.square(y), -1), 1.0, rtol=1e-4)  # pyright: ignore[reportArgumentType]: Flax declares a union
  np.testing.assert_allclose(layer.apply(variables, 1000.0 * x), y, rtol=1e-4)  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union


def test_norm_sums_in_float32():
  """In bfloat16 the sum of 4096 squares would stop growing long before its end."""
  layer = RMSNorm(jnp.bfloat16)
  y = layer.apply({"params": {"scale": jnp.full(4096, 0.5)}}, jnp.ones((1, 4096), jnp.bfloat16))
  assert y.dtype == jnp.bfloat16  # pyright: ignore[reportAttributeAccessIssue]: Flax declares a union
  np.testing.assert_allclose(y.astype(jnp.float32), 0.5, rtol=1e-2)  # pyright: ignore[reportAttributeAccessIssue]: Flax declares a union
