"""Parameters and batches of models, and calls of Flax modules with parameters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
  import jax
  import numpy as np
  from flax import linen as nn

  RandomKey = jax.Array
  BatchArray = jax.Array | np.ndarray
  BatchShape = BatchArray | jax.ShapeDtypeStruct
else:
  # Specifications of stages name them, and need no JAX.
  RandomKey = BatchArray = BatchShape = object

# A tree of parameters: dicts by the names of modules, whose leaves are arrays.
Params = Mapping[str, Any]
# By name, arrays whose first axis counts examples: NumPy arrays until they are on the devices.
Batch = Mapping[str, BatchArray]
# A batch, or the shapes of its arrays.
ShapedBatch = Mapping[str, BatchShape]


def apply(module: "nn.Module", params: Params, *arguments: object, **options: Any) -> Any:
  """Returns the outputs of a module for its parameters; see `flax.linen.Module.apply`.

  Flax declares the result as a union with variables, which a caller would have to exclude.
  """
  return module.apply({"params": params}, *arguments, **options)  # pyright: ignore[reportUnknownMemberType]: Flax leaves out types


def param(
  module: "nn.Module",
  name: str,
  init: "nn.initializers.Initializer",
  axes: tuple[str | None, ...],
  *shape_and_dtype: object,
) -> "jax.Array":
  """Declares a parameter of a module with logical names of its axes; see `flax.linen.Module.param`.

  Flax declares the result as the box that the initializer returns, but removes the box.
  """
  # Imported here because specifications of stages name `Params` and need no Flax.
  from flax import linen as nn

  boxed = nn.with_logical_partitioning(init, axes)
  return cast("jax.Array", module.param(name, boxed, *shape_and_dtype))  # pyright: ignore[reportUnknownMemberType]: Flax leaves out types
