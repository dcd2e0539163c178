"""Layers in sequence: recomputed in the backward pass, and stacked in a loop."""

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from flax import linen as nn


class Remat(enum.StrEnum):
  """Values that the backward pass recomputes: none, all but plain matrix products, or layers."""

  NONE = "none"
  MINIMAL = "minimal"
  FULL = "full"


def recomputed(
  layer: "type[nn.Module]", remat: Remat | str, in_scan: bool, static_argnums: Sequence[int] = ()
) -> "type[nn.Module]":
  """Returns a layer whose values the backward pass recomputes.

  Args:
    layer: class of the layer.
    remat: the values, a member of `Remat` or its text; for "none", the result is the layer itself.
    in_scan: whether `scanned` repeats the layer, which separates its two computations already.
    static_argnums: positions of arguments that are no arrays; the module itself has position 0.
  """
  # Imported here because configurations name `Remat` and need no Flax.
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
  """Returns a layer that repeats another one, with stacked parameters for all repetitions.

  Args:
    layer: class of the layer, which returns its output and a second value.
    length: number of repetitions.
    in_axes: for each argument but the first, the axis to loop over, or `flax.linen.broadcast`.
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
