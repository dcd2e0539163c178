import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.codec.causal import CausalConv, ResidualUnit, StridedConv, TransposedConv
from audiolm_jax.core import modules

CHANNELS = 3


def noise(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def run(layer, x, state):
  params = meta.unbox(layer.init(jax.random.key(0), x, state))["params"]
  params = jax.tree.map(lambda p: jnp.asarray(noise(*p.shape)), params)  # biases are not 0 either
  return params, *modules.apply(layer, params, x, state)


@pytest.mark.parametrize("dilation", [1, 3])
def test_causal_conv_sums_weighted_past_inputs(dilation):
  x, layer = noise(2, 20, CHANNELS), CausalConv(4, 7, dilation)
  params, y, _ = run(layer, x, np.zeros((2, layer.context(), CHANNELS)))
  past = np.pad(x, ((0, 0), (6 * dilation, 0), (0, 0)))
  taps = [past[:, i * dilation : i * dilation + 20] @ params["kernel"][i] for i in range(7)]
  np.testing.assert_allclose(y, sum(taps) + params["bias"], atol=1e-4)


def test_strided_conv_sees_its_block_and_the_one_before():
  x, layer = noise(2, 12, CHANNELS), StridedConv(5, 4)
  params, y, _ = run(layer, x, np.zeros((2, 4, CHANNELS)))
  assert y.shape == (2, 3, 5)
  kernel = np.reshape(params["kernel"], (8, CHANNELS, 5))
  second = np.einsum("btc,tcf->bf", x[:, :8], kernel) + params["bias"]
  np.testing.assert_allclose(y[:, 1], second, atol=1e-4)


def test_transposed_conv_writes_its_block_and_the_next():
  x, layer = noise(2, 3, CHANNELS), TransposedConv(5, 4)
  params, y, _ = run(layer, x, np.zeros((2, 4, 5)))
  assert y.shape == (2, 12, 5)
  kernel = np.reshape(params["kernel"], (CHANNELS, 2, 4, 5))
  own = np.einsum("bc,ctf->btf", x[:, 1], kernel[:, 0])
  from_before = np.einsum("bc,ctf->btf", x[:, 0], kernel[:, 1])
  np.testing.assert_allclose(y[:, 4:8], own + from_before + params["bias"], atol=1e-4)


def test_untrained_layers_keep_what_passes_through_them():
  x = 0.1 * noise(4, 40, 8)

  def untrained(layer, x, *context):
    state = np.zeros((4, *context), np.float32)
    return layer.apply(layer.init(jax.random.key(0), x, state), x, state)[0]

  np.testing.assert_array_equal(untrained(ResidualUnit(3), x, 18, 8), x)
  down = StridedConv(64, 4).init(jax.random.key(0), x, np.zeros((4, 4, 8)))
  kernel = meta.unbox(down)["params"]["kernel"]
  np.testing.assert_allclose(kernel.T @ kernel, np.eye(64), atol=1e-5)
  up = untrained(TransposedConv(4, 4), x, 4, 4)
  assert np.std(up) == pytest.approx(np.std(x), rel=0.3)


@pytest.mark.parametrize(
  ("layer", "context"),
  [
    (CausalConv(4, 7, 3), (18, CHANNELS)),
    (ResidualUnit(9), (54, CHANNELS)),
    (StridedConv(5, 4), (4, CHANNELS)),
    (TransposedConv(5, 4), (4, 5)),
  ],
  ids=lambda value: type(value).__name__,
)
def test_two_pieces_are_the_whole(layer, context):
  x, zeros = noise(2, 24, CHANNELS), np.zeros((2, *context), np.float32)
  params, whole, last = run(layer, x, zeros)
  first, state = modules.apply(layer, params, x[:, :8], zeros)
  second, state = modules.apply(layer, params, x[:, 8:], state)
  np.testing.assert_allclose(np.concatenate([first, second], 1), whole, atol=1e-5)
  np.testing.assert_allclose(state, last, atol=1e-5)
