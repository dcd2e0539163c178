"""Shapes of parameters, computed from configurations without running or tracing a network.

Shapes are nested like the parameters, with tuples instead of arrays. Configurations of networks and
specs of stages have a method `parameter_shapes`; the tests compare its result with the parameters.
Files are compared with these shapes before their arrays are read.
"""

from collections.abc import Mapping
from typing import Any, cast

from audiolm_jax.core.modules import Params

# The shape of each array and the nested `Shapes` of each module, by name.
Shapes = dict[str, Any]


def flat(shapes: Mapping[str, object], prefix: str = "") -> dict[str, tuple[int, ...]]:
  """Returns the shapes by path; a path joins the names of modules and of an array with "/"."""
  found: dict[str, tuple[int, ...]] = {}
  for name, value in shapes.items():
    if isinstance(value, Mapping):
      found |= flat(cast(Mapping[str, object], value), f"{prefix}{name}/")
    else:
      found[prefix + name] = tuple(cast("tuple[int, ...]", value))
  return found


def of_arrays(params: Params) -> Shapes:
  """Returns the shapes of nested arrays, or of other nested objects with a `shape`."""
  return {
    name: of_arrays(cast(Params, value)) if isinstance(value, Mapping) else tuple(value.shape)
    for name, value in params.items()
  }


def dense(inputs: int, outputs: int, *, bias: bool = True) -> Shapes:
  """Returns the shapes of a dense layer, with or without a bias."""
  return {"kernel": (inputs, outputs), **({"bias": (outputs,)} if bias else {})}


def convolution(taps: int, inputs: int, outputs: int) -> Shapes:
  """Returns the shapes of a convolution over time."""
  return {"kernel": (taps, inputs, outputs), "bias": (outputs,)}


def strided(stride: int, inputs: int, outputs: int) -> Shapes:
  """Returns the shapes of `codec.causal.StridedConv`."""
  return dense(2 * stride * inputs, outputs)


def transposed(stride: int, inputs: int, outputs: int) -> Shapes:
  """Returns the shapes of `codec.causal.TransposedConv`."""
  return {"kernel": (inputs, 2 * stride * outputs), "bias": (outputs,)}


def norm(dim: int) -> Shapes:
  """Returns the shapes of a normalization with scale and bias."""
  return {"scale": (dim,), "bias": (dim,)}


def clustered(encoder: Shapes, dim: int, num_clusters: int) -> Shapes:
  """Returns the shapes of a semantic tokenizer: an encoder, its whitening and its centroids."""
  return {
    "encoder": encoder,
    "mean": (dim,),
    "scale": (dim,),
    "centroids": (num_clusters, dim),
  }
