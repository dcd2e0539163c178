"""Parameters with logical axes, and calls of modules with parameters."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.core import modules


class Scale(nn.Module):
  @nn.compact
  def __call__(self, x, factor=1.0):
    scale = modules.param(self, "scale", nn.initializers.constant(3.0), ("embed",), (2,))
    return x * scale * factor

  def doubled(self, x):
    return self(x, 2.0)


def test_a_parameter_has_its_logical_axes_and_is_a_plain_array_in_the_module():
  params = Scale().init(jax.random.key(0), np.ones(2, np.float32))["params"]
  assert params["scale"].names == ("embed",)  # pyright: ignore[reportAttributeAccessIssue]: Flax declares a union
  assert meta.unbox(params)["scale"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
  ("arguments", "options", "expected"),
  [((), {}, 5.0), ((10.0,), {}, 50.0), ((), {"method": "doubled"}, 10.0)],
)
def test_apply_passes_parameters_arguments_and_options(arguments, options, expected):
  params = {"scale": np.array([5.0, 5.0], np.float32)}
  y = modules.apply(Scale(), params, np.ones(2, np.float32), *arguments, **options)
  assert y.tolist() == [expected, expected]
