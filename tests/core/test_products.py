"""Products of the models in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core import products
from audiolm_jax.core.products import Precision, matmul, precision


def _operands(rows: tuple[int, ...], inputs: int, outputs: int):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(*rows, inputs)).astype(np.float32)
  return x, rng.normal(size=(inputs, outputs)).astype(np.float32)


def _value_and_gradients(x, kernel, weights):
  def loss(x, kernel):
    result = matmul(x, kernel)
    return jnp.sum(result * weights), result

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)


def test_float32_is_the_default_and_exact():
  x, kernel = _operands((2, 5), 7, 3)
  np.testing.assert_allclose(matmul(x, kernel), x @ kernel, rtol=1e-5, atol=1e-5)  # pyright: ignore[reportArgumentType]: NumPy arrays serve


@pytest.mark.parametrize(
  ("rows", "inputs", "outputs"),
  [((3, 33), 40, 64), ((50,), 64, 24), ((35,), 520, 530), ((35,), 530, 520)],
)
def test_bfloat16_rounds_operands_and_nothing_else(rows, inputs, outputs):
  # With operands that bfloat16 represents exactly both precisions agree to float32 rounding.
  exact = [
    np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for a in _operands(rows, inputs, outputs)
  ]
  weights = np.asarray(
    jnp.asarray(np.random.default_rng(1).normal(size=(*rows, outputs)), jnp.bfloat16), np.float32
  )
  wanted = _value_and_gradients(*exact, weights)  # pyright: ignore[reportCallIssue]: the length of the tuple is not known
  with precision(Precision.BFLOAT16):
    found = jax.jit(_value_and_gradients)(*exact, weights)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
  ("rows", "inputs", "columns"), [(33, 16, 40), (40, 33, 16), (16, 40, 33), (1, 8, 5)]
)
def test_stacked_matrices_have_the_same_products_in_both_precisions(rows, inputs, columns):
  rng = np.random.default_rng(0)
  shapes = ((2, 3, rows, inputs), (2, 3, inputs, columns), (2, 3, rows, columns))
  x, y, weights = (
    np.asarray(jnp.asarray(rng.normal(size=shape), jnp.bfloat16), np.float32) for shape in shapes
  )

  def value_and_gradients(x, y):
    def loss(x, y):
      result = products.batched_matmul(x, y)
      return jnp.sum(result * weights), result

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, y)

  wanted = value_and_gradients(x, y)
  with precision("bfloat16"):
    found = jax.jit(value_and_gradients)(x, y)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_bfloat16_differs_from_float32_by_its_rounding():
  x, kernel = _operands((20,), 64, 16)
  with precision("bfloat16"):
    rounded = matmul(x, kernel)  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  difference = np.abs(rounded - x @ kernel)
  assert 1e-4 < np.max(difference) < 0.2


def test_precision_ends_with_its_context_also_after_an_error():
  with pytest.raises(RuntimeError), precision("bfloat16"):
    raise RuntimeError
  assert products.current_precision() is Precision.FLOAT32


def test_a_compiled_function_is_traced_again_in_another_precision():
  x, kernel = _operands((20,), 64, 16)
  compiled = jax.jit(lambda x, k: jax.lax.scan(lambda c, row: (c, matmul(row[None], k)), 0, x)[1])
  exact = compiled(x, kernel)
  with precision("bfloat16"):
    rounded = compiled(x, kernel)
  assert np.any(rounded != exact)
  np.testing.assert_array_equal(compiled(x, kernel), exact)


def test_other_types_than_float32_are_left_alone():
  x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in _operands((20,), 64, 16))
  with precision("bfloat16"):
    assert matmul(x, kernel).dtype == jnp.bfloat16


def test_dot_general_over_several_axes_is_that_of_jax_on_rounded_operands():
  x, kernel = _operands((4, 5, 2), 6, 21)
  kernel = kernel.reshape(6, 3, 7)[None].repeat(2, 0)
  axes = (((2, 3), (0, 1)), ((), ()))
  wanted = jax.lax.dot_general(
    *(a.astype(jnp.bfloat16) for a in (x, kernel)),
    axes,  # pyright: ignore[reportCallIssue]: the length of the tuple is not known
    preferred_element_type=jnp.float32,
  )
  with precision("bfloat16"):
    found = products.dot_general(x, kernel, axes)  # pyright: ignore[reportArgumentType]: NumPy arrays serve
    with pytest.raises(ValueError, match="cannot contract"):
      products.dot_general(x, kernel, (((3,), (1,)), ((2,), (0,))))  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_precision_of_another_name_is_refused():
  with pytest.raises(ValueError, match="float16"), precision("float16"):
    pass


def test_weight_gradient_contracts_no_first_axes_of_both_operands():
  # XLA:CPU multiplies that form several times slower.
  x, kernel = _operands((32,), 16, 24)
  with precision("bfloat16"):
    text = str(jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(matmul(x, k)), 1))(x, kernel))
  assert "dot_general" in text
  assert "(([0], [0])" not in text
