"""Rematerialization of layers in the backward pass, and loops over stacked layers."""

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from flax import linen as nn


class Remat(enum.StrEnum):
  """The values of a layer that the backward pass recomputes.

  NONE: no values. MINIMAL: all values except the results of matrix products without batch axes.
  FULL: all values.
  """

  NONE = "none"
  MINIMAL = "minimal"
  FULL = "full"


def recomputed(
  layer: "type[nn.Module]", remat: Remat | str, in_scan: bool, static_argnums: Sequence[int] = ()
) -> "type[nn.Module]":
  """Returns a class of layers whose values the backward pass recomputes.

  Args:
    layer: class of the layer.
    remat: the values to recompute, a member of `Remat` or its string; for "none", the function
      returns `layer`.
    in_scan: whether `scanned` repeats the layer. In a loop, XLA cannot merge the recomputation with
      the first computation, so Flax need not prevent the merging.
    static_argnums: positions of arguments that are not arrays; the module itself has position 0.
  """
  # Imported here because configurations use `Remat` and do not need Flax.
  import jax
  from flax import linen as nn

  remat = Remat(remat)
  if remat is Remat.NONE:
    return layer
  policies = jax.checkpoint_policies
  policy = policies.dots_with_no_batch_dims_saveable if remat is Remat.MINIMAL else None
  return nn.remat(  # pyright: ignore[reportUnknownMemberType]: Flax leaves out types
    layer, policy=policy, prevent_cse=not in_scan, static_argnums=tuple(static_argnums)
  )


def scanned(layer: "type[nn.Module]", length: int, in_axes: Any) -> Any:
  """Returns a layer class that repeats `layer`, with parameters stacked along a new first axis.

  Args:
    layer: class of the repeated layer, which returns its output and a second value.
    length: number of repetitions.
    in_axes: the axis to loop over for each argument after the first, or `flax.linen.broadcast`.
  """
  from flax import linen as nn

  return nn.scan(  # pyright: ignore[reportUnknownMemberType]: Flax leaves out types
    layer,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=in_axes,
    length=length,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
