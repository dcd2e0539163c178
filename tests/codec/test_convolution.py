import jax
import numpy as np
import pytest

from audiolm_jax.codec import convolution


@pytest.mark.parametrize(
  ("space", "taps", "strides", "dilations"),
  [
    ((40,), (7,), (1,), (3,)),
    ((41,), (5,), (2,), (1,)),
    ((40,), (4,), (3,), (2,)),
    ((12, 17), (3, 3), (1, 1), (1, 1)),
    ((13, 18), (4, 3), (2, 1), (1, 1)),
    ((9, 20), (3, 4), (1, 2), (2, 1)),
  ],
)
def test_product_and_convolution_are_the_same(space, taps, strides, dilations):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (2, *space, 3))
  kernel = jax.random.normal(keys[1], (*taps, 3, 5))
  product, reference = (
    jax.vjp(lambda x, k, f=f: f(strides, dilations, x, k), x, kernel)
    for f in (convolution.as_product, convolution.as_convolution)
  )
  np.testing.assert_allclose(product[0], reference[0], atol=1e-4)
  direction = jax.random.normal(keys[0], reference[0].shape)
  for ours, theirs in zip(product[1](direction), reference[1](direction), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
  chosen = convolution.convolve(x, kernel, strides, dilations)
  np.testing.assert_allclose(chosen, reference[0], atol=1e-4)
