"""Processors, which change the logits of a token before it is drawn.

A processor is a frozen dataclass and a static argument of programs, so equal processors use the
same compiled program. Values that may change without a new compilation are in `arrays`. Fields with
such values have `compare=False`, and `__call__` reads the values only from its argument `arrays`.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.sampling.logits import Controls, draw, only


class Context(NamedTuple):
  """The position of a token in its clip, and the codes before the token.

  These values do not depend on other rows, or on windows and segments of the clip.

  Attributes:
    frame: number of the frame of the token in the whole clip; number of the token in a stream
      without levels.
    level: level of the token; 0 in a stream without levels.
    codes: codes of the `history` frames before the frame of the token, then of this frame. They are
      from the prompt, from the source or drawn; unknown codes are -1.
  """

  frame: Int[Array | np.ndarray, "batch"]
  level: Int[Array, ""] | int
  codes: Int[Array, "batch frames levels"]


class LegalIds(NamedTuple):
  """The ids that may be drawn at a step.

  Attributes:
    start: first id of the slice of the vocabulary whose logits are computed.
    size: number of ids in the slice.
    mask: whether each id of the slice is legal; None if all ids are legal.
  """

  start: Int[Array, ""] | int
  size: int
  mask: Bool[Array, "size"] | None = None

  def masked(self, logits: Float[Array, "batch size"]) -> Float[Array, "batch size"]:
    """Sets the logits of ids that are not legal to -inf."""
    return logits if self.mask is None else only(logits, self.mask)


@runtime_checkable
class DrawInputs(Protocol):
  """The inputs of a loop that `draw_legal` reads: random keys, settings and processor arrays."""

  @property
  def keys(self) -> Key[Array, "batch"]: ...
  @property
  def controls(self) -> Controls: ...
  @property
  def arrays(self) -> tuple[PyTree, ...]: ...


@dataclasses.dataclass(frozen=True)
class Processor(abc.ABC):
  """Changes logits before a token is drawn."""

  @property
  def history(self) -> int:
    """Number of earlier frames that the processor reads."""
    return 0

  def arrays(self) -> PyTree:
    """Returns a pytree of arrays that `__call__` receives."""
    return ()

  @property
  def is_last(self) -> bool:
    """Whether the processor runs after temperature, top-k and top-p, instead of before them."""
    return False

  @abc.abstractmethod
  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: PyTree
  ) -> Float[Array, "batch size"]:
    """Returns the changed logits; logit i of a row belongs to code i of the level."""


@dataclasses.dataclass(frozen=True)
class RunLimit(Processor):
  """Limits runs of equal tokens, because longer runs do not occur in training.

  Attributes:
    limit: maximum number of consecutive equal tokens.
  """

  limit: int

  @property
  def history(self) -> int:
    """Number of earlier tokens that are compared."""
    return self.limit

  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: PyTree
  ) -> Float[Array, "batch size"]:
    """Masks the logit of the previous token if the run of this token has reached the limit."""
    del arrays
    run = context.codes[:, -1 - self.limit : -1, 0]
    at_limit = jnp.all(run == run[:, -1:], axis=1)
    repeat = jnp.arange(logits.shape[1]) == run[:, -1:]  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    return only(logits, ~(repeat & at_limit[:, None]))


def apply(
  processors: Sequence[Processor],
  arrays: Sequence[PyTree],
  logits: Float[Array, "batch size"],
  context: Context,
  are_last: bool = False,
) -> Float[Array, "batch size"]:
  """Applies the processors whose `is_last` equals `are_last` to logits.

  Args:
    processors: the processors.
    arrays: the arrays of each processor.
    logits: the logits before temperature, top-k and top-p, or after them if `are_last`.
    context: position of the tokens. Each processor receives only the frames that it reads.
    are_last: the `is_last` of the processors to apply.
  """
  for processor, values in zip(processors, arrays, strict=True):
    if processor.is_last != are_last:
      continue
    shown = context.codes[:, context.codes.shape[1] - 1 - processor.history :]
    logits = processor(logits, context._replace(codes=shown), values)
  return logits


def draw_processed(
  processors: Sequence[Processor],
  arrays: Sequence[PyTree],
  logits: Float[Array, "batch size"],
  context: Context,
  keys: Key[Array, "batch"],
  controls: Controls,
) -> Int[Array, "batch"]:
  """Draws one index per row with all processors; see `logits.draw`."""
  logits = apply(processors, arrays, logits, context)

  def last(scaled: Float[Array, "batch size"]) -> Float[Array, "batch size"]:
    return apply(processors, arrays, scaled, context, are_last=True)

  return draw(logits, keys, controls, last)


def draw_legal(
  legal: LegalIds,
  logits: Float[Array, "batch size"],
  step: Int[Array, ""],
  inputs: DrawInputs,
  processors: Sequence[Processor],
  context: Context | None,
) -> Int[Array, "batch"]:
  """Draws one legal id per row.

  Args:
    legal: the legal ids.
    logits: logits of the ids in the slice, see `LegalIds`.
    step: number of the token, which is folded into the key of each row.
    inputs: random keys, settings and arrays of the processors.
    processors: processors of the logits.
    context: position of the tokens; None without processors.

  Returns:
    Ids of the vocabulary, not of the slice.
  """
  keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(inputs.keys, step)
  logits = legal.masked(logits)
  if context is None:
    return legal.start + draw(logits, keys, inputs.controls)
  settings = keys, inputs.controls
  return legal.start + draw_processed(processors, inputs.arrays, logits, context, *settings)
