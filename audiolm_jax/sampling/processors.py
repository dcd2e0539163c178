"""Processors: change the logits of a token before it is drawn.

A processor is a frozen dataclass, and programs are compiled per equal processor. Values that may
change without a compilation are its `arrays`; such fields have `compare=False`, and `__call__`
reads their values from its argument only.
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
  """The position of a token and the codes before it, independent of windows, pieces and rows.

  Attributes:
    frame: number of its frame in the whole clip, or of the token in a stream without frames.
    level: level of the token; 0 in a stream without levels.
    codes: codes of the `history` frames before and, last, of its own frame at all known levels,
      whether from a prompt, from a source or drawn; -1 elsewhere.
  """

  frame: Int[Array | np.ndarray, "batch"]
  level: Int[Array, ""] | int
  codes: Int[Array, "batch frames levels"]


class LegalIds(NamedTuple):
  """The ids that may be drawn at a step.

  Attributes:
    start: first id of the slice of the vocabulary whose logits are computed.
    size: number of ids in the slice.
    mask: whether each id of the slice is legal; None if all are.
  """

  start: Int[Array, ""] | int
  size: int
  mask: Bool[Array, "size"] | None = None

  def masked(self, logits: Float[Array, "batch size"]) -> Float[Array, "batch size"]:
    """Sets the logits of ids that are not legal to -inf."""
    return logits if self.mask is None else only(logits, self.mask)


@runtime_checkable
class DrawInputs(Protocol):
  """The inputs of a loop that its draws use: a key per row, settings, arrays of each processor."""

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
    """Whether it changes the logits after temperature, top-k and top-p, instead of before."""
    return False

  @abc.abstractmethod
  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: PyTree
  ) -> Float[Array, "batch size"]:
    """Returns the changed logits, one per code."""


@dataclasses.dataclass(frozen=True)
class RunLimit(Processor):
  """Limits the length of runs of one token, since longer runs do not occur in training.

  Attributes:
    limit: maximum number of equal tokens in a row.
  """

  limit: int

  @property
  def history(self) -> int:
    """The number of tokens that may be equal."""
    return self.limit

  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: PyTree
  ) -> Float[Array, "batch size"]:
    """Masks the last token if its run has reached the limit."""
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
  """Returns the logits after all processors, each of which receives the frames that it reads.

  Args:
    processors: the processors.
    arrays: the arrays of each.
    logits: before, or after temperature, top-k and top-p.
    context: the position of the tokens.
    are_last: whether to apply those that are last, or the others.
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
  """Returns one index per row, drawn as by `draw` with all processors."""
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
    logits: those of the slice.
    step: number of the token, which is folded into the key of each row.
    inputs: keys, settings and arrays.
    processors: processors of the logits.
    context: the position of the tokens; None without processors.
  """
  keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(inputs.keys, step)
  logits = legal.masked(logits)
  if context is None:
    return legal.start + draw(logits, keys, inputs.controls)
  settings = keys, inputs.controls
  return legal.start + draw_processed(processors, inputs.arrays, logits, context, *settings)
