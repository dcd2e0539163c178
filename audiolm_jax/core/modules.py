"""Types of parameters and batches, and calls of Flax modules with parameters."""

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
  # Specifications of stages use these types and do not need JAX.
  RandomKey = BatchArray = BatchShape = object

# A tree of parameters: nested dicts by the names of modules, with arrays as leaves.
Params = Mapping[str, Any]
# Arrays by name, with examples along the first axis: NumPy arrays until they are on the devices.
Batch = Mapping[str, BatchArray]
# A batch, or the shapes of its arrays.
ShapedBatch = Mapping[str, BatchShape]


def apply(module: "nn.Module", params: Params, *arguments: object, **options: Any) -> Any:
  """Returns the outputs of a module with the given parameters; see `flax.linen.Module.apply`.

  The declared type is Any, because Flax declares a union: the outputs, or a tuple of outputs and
  variables.
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

  The declared type is an array, because Flax returns the array without the box of the initializer.
  """
  # Imported here because specifications of stages use `Params` and do not need Flax.
  from flax import linen as nn

  boxed = nn.with_logical_partitioning(init, axes)
  return cast("jax.Array", module.param(name, boxed, *shape_and_dtype))  # pyright: ignore[reportUnknownMemberType]: Flax leaves out types
