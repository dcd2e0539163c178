"""Processors: what changes the logits of a token before it is drawn.

A processor is a frozen dataclass, by whose equality programs are compiled. What can change
without compiling anew it gives as `arrays`; such fields have `compare=False`, and `__call__` takes
their values from its argument alone.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from audiolm_jax.sampling.logits import only


class Context(NamedTuple):
  """Where a token stands and what is before it. Windows, pieces and company do not change it.

  Attributes:
    frame: number of its frame in the whole clip, or of the token in a stream without frames.
    level: of the token; 0 in a stream without levels.
    codes: codes of the `history` frames before, and of its own frame in the last place, at all
      levels that are known, be it from a prompt, from a source or drawn; -1 elsewhere.
  """

  frame: Int[Array, "batch"]
  level: Int[Array, ""] | int
  codes: Int[Array, "batch frames levels"]


@dataclasses.dataclass(frozen=True)
class Processor(abc.ABC):
  """Changes logits."""

  @property
  def history(self) -> int:
    """How many earlier frames it reads."""
    return 0

  def arrays(self) -> Any:
    """What `__call__` is given beside the logits: a pytree of arrays."""
    return ()

  @abc.abstractmethod
  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: Any
  ) -> Float[Array, "batch size"]:
    """The changed logits, each that of the code of its place."""


@dataclasses.dataclass(frozen=True)
class RunLimit(Processor):
  """Ends a run of one token at its limit, as longer ones never occur in training.

  Attributes:
    limit: most equal tokens one after another.
  """

  limit: int

  @property
  def history(self) -> int:
    """As many as may be equal."""
    return self.limit

  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: Any
  ) -> Float[Array, "batch size"]:
    """Forbids the newest token where it has been there so often."""
    del arrays
    run = context.codes[:, -1 - self.limit : -1, 0]
    at_limit = jnp.all(run == run[:, -1:], axis=1)
    repeat = jnp.arange(logits.shape[1]) == run[:, -1:]
    return only(logits, ~(repeat & at_limit[:, None]))


def apply(
  processors: Sequence[Processor],
  arrays: Sequence[Any],
  logits: Float[Array, "batch size"],
  context: Context,
) -> Float[Array, "batch size"]:
  """The logits after all processors, each shown as many frames as it reads."""
  for processor, values in zip(processors, arrays, strict=True):
    shown = context.codes[:, context.codes.shape[1] - 1 - processor.history :]
    logits = processor(logits, context._replace(codes=shown), values)
  return logits
