"""Parameters of Flax modules, and calls of modules with them."""

# The annotations of Flax leave out some types.
# pyright: reportUnknownMemberType=false

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
  import jax
  from flax import linen as nn

  RandomKey = jax.Array
else:
  RandomKey = object  # specifications of stages name it, and need no JAX

# A tree of parameters: dicts by the names of modules, whose leaves are arrays.
Params = Mapping[str, Any]


def apply(module: "nn.Module", params: Params, *arguments: object, **options: Any) -> Any:
  """Returns the outputs of a module for its parameters; see `flax.linen.Module.apply`.

  Flax declares the result as a union with variables, which a caller would have to exclude.
  """
  return module.apply({"params": params}, *arguments, **options)


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
  return cast("jax.Array", module.param(name, boxed, *shape_and_dtype))
