"""Parameters of Flax modules, and calls of modules with them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
  import jax
  from flax import linen as nn

# A tree of parameters: dicts by the names of modules, whose leaves are arrays.
Params = Mapping[str, Any]


def apply(module: "nn.Module", params: Params, *arguments: Any, **options: Any) -> Any:
  """Returns the outputs of a module for its parameters; see `flax.linen.Module.apply`.

  Flax declares the result as a union with variables, which a caller would have to exclude.
  """
  return module.apply({"params": params}, *arguments, **options)


def param(
  module: "nn.Module",
  name: str,
  init: "nn.initializers.Initializer",
  axes: tuple[str | None, ...],
  *shape_and_dtype: Any,
) -> "jax.Array":
  """Declares a parameter of a module with logical names of its axes; see `flax.linen.Module.param`.

  Flax declares the result as the box that the initializer returns, but removes the box.
  """
  # Imported here because specifications of stages name `Params` and need neither JAX nor Flax.
  from flax import linen as nn

  boxed = nn.with_logical_partitioning(init, axes)
  return cast("jax.Array", module.param(name, boxed, *shape_and_dtype))
