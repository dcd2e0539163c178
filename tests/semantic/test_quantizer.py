"""The codebook of w2v-BERT's targets."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.semantic.quantizer import GumbelQuantizer

MODEL: Any = GumbelQuantizer(num_groups=2, codebook_size=8, dim=6)
VALID = jnp.ones((3, 10), bool)


@pytest.fixture(scope="module")
def features():
  return jax.random.normal(jax.random.key(0), (3, 10, 5))


@pytest.fixture(scope="module")
def variables(features):
  return meta.unbox(jax.jit(MODEL.init)(jax.random.key(1), features, VALID, None))


def test_shapes_and_probabilities(variables, features):
  result = MODEL.apply(variables, features, VALID, None)
  assert result.vectors.shape == (3, 10, 6)
  assert result.ids.shape == (3, 10, 2)
  np.testing.assert_allclose(result.probabilities.sum(-1), 1.0, rtol=1e-5)
  np.testing.assert_array_equal(jnp.argmax(result.probabilities, -1), result.ids)


def test_without_temperature_the_vector_is_the_chosen_entries(variables, features):
  result = MODEL.apply(variables, features, VALID, None)
  params = variables["params"]
  entries = [params["codebook"][g][result.ids[..., g]] for g in range(2)]
  project = params["project"]
  expected = jnp.concatenate(entries, -1) @ project["kernel"] + project["bias"]
  np.testing.assert_allclose(result.vectors, expected, atol=1e-5)


def test_level_and_voice_of_an_item_do_not_matter(variables, features):
  """What all steps share is taken out: another gain and another offset give the same ids."""
  other = 3.0 * features + jnp.arange(5.0)
  plain = MODEL.apply(variables, features, VALID, None)
  np.testing.assert_array_equal(MODEL.apply(variables, other, VALID, None).ids, plain.ids)


def test_padding_does_not_matter(variables, features):
  valid = VALID.at[:, 6:].set(False)
  plain = MODEL.apply(variables, features, valid, None)
  padded = MODEL.apply(variables, features.at[:, 6:].set(100.0), valid, None)
  np.testing.assert_allclose(padded.vectors[:, :6], plain.vectors[:, :6], atol=1e-5)


def test_gradients_pass_straight_through_to_the_scores(variables, features):
  def total(params):
    rngs = {"gumbel": jax.random.key(2)}
    result = MODEL.apply({"params": params}, features, VALID, 1.0, rngs=rngs)
    return jnp.sum(jnp.square(result.vectors))

  gradient = jax.grad(total)(variables["params"])
  assert float(jnp.abs(gradient["scores"]["kernel"]).sum()) > 0
  assert float(jnp.abs(gradient["codebook"]).sum()) > 0


def test_noise_draws_other_entries_at_the_same_ids(variables, features):
  rngs = [{"gumbel": jax.random.key(k)} for k in (3, 4)]
  one, other = (MODEL.apply(variables, features, VALID, 2.0, rngs=r) for r in rngs)
  np.testing.assert_array_equal(one.ids, other.ids)
  assert float(jnp.abs(one.vectors - other.vectors).max()) > 0
