"""The properties that a model declares to run in chunks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import PyTree, Shaped

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError

# A chunk of a stream may have any number of frames up to this one.
_AT_ONCE = 8

Step = Callable[[np.ndarray, np.ndarray, PyTree], tuple[Array | np.ndarray, PyTree]]


@runtime_checkable
class Sliced(Protocol):
  """The inputs of a clip that are read in slices, so that they need not fit in memory."""

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the array that it stands for."""
    ...

  def __len__(self) -> int: ...

  def __getitem__(self, part: slice) -> np.ndarray:
    """Returns a slice; each one starts and ends no earlier than the one before."""
    ...

  def __array__(self) -> np.ndarray: ...


class Reach(NamedTuple):
  """The numbers of frames before and after a frame that its result depends on."""

  left: int
  right: int


class Sizes(NamedTuple):
  """The numbers of frames that a chunk may have.

  Attributes:
    largest: frames of every chunk except the last ones of a clip.
    smaller: maps the number of remaining frames, less than `largest`, to the frames of the next
      chunk.
  """

  largest: int
  smaller: Callable[[int], int]

  @classmethod
  def in_steps(cls, largest: int, step: int) -> "Sizes":
    """Puts the remaining frames into one chunk of a multiple of `step`: fewer chunks."""
    return cls(largest, lambda rest: -(-rest // step) * step)

  @classmethod
  def of_two(cls, largest: int, small: int) -> "Sizes":
    """Puts the remaining frames into chunks of `small` frames: two programs, more chunks."""
    return cls(largest, lambda rest: small)


@dataclasses.dataclass(frozen=True)
class ChunkedModel:
  """A model that maps chunks of whole frames, for several clips at once.

  Attributes:
    step: maps inputs [batch, size * unit, ...], ends [batch] and a state to results [batch, size *
      n, ...], n per frame, and the next state. `ends` are the inputs from the first frame of the
      chunk to the end of each clip, which may lie after or before the chunk.
    nothing: the results of a clip without frames, [0, ...].
    sizes: the numbers of frames that a chunk may have.
    initial_state: maps a number of clips to the state at their start. If None, no state is carried
      from chunk to chunk and `step` receives None.
    left: frames before a frame that its result depends on, if no state carries them.
    right: frames after a frame that its result depends on. If a state is carried, the results of
      `step` belong to the frames `right` before its inputs.
    first: the minimum number of frames of the first chunk.
    unit: inputs per frame.
    margins: inputs before and after a chunk that are part of its inputs, zeros outside of the clip.
    dtype: dtype of the inputs.
    pooled: whether chunks of one size form a batch regardless of their clips. Then every clip is
      cut as if it were alone, and all chunks of a clip longer than the largest size have that size.
      Otherwise clips of similar length form a batch and are all cut as the longest of them.
    prepare: starts to load or compile in the background what `step` needs for the given arguments.

  Raises:
    ConfigError: the largest chunk leaves no result to keep, or a model with a state sets `pooled`
      or `left`.
  """

  step: Step
  nothing: Shaped[np.ndarray, "0 ..."]
  sizes: Sizes
  initial_state: Callable[[int], PyTree] | None = None
  left: int = 0
  right: int = 0
  first: int = 1
  unit: int = 1
  margins: tuple[int, int] = (0, 0)
  dtype: type[np.generic] = np.float32
  pooled: bool = False
  prepare: Callable[[np.ndarray, np.ndarray, PyTree], None] | None = None

  def __post_init__(self) -> None:
    if self.left + self.right >= self.sizes.largest:
      raise ConfigError(
        f"a chunk of {self.sizes.largest} frames has no result to keep: each depends on "
        f"{self.left} frames before and {self.right} after it; use larger chunks"
      )
    if self.carried and (self.pooled or self.left):
      raise ConfigError("a model with a state can have neither pooled nor overlapping chunks")

  @property
  def carried(self) -> bool:
    """Whether a state is carried from chunk to chunk."""
    return self.initial_state is not None

  @property
  def lag(self) -> int:
    """The number of frames by which the results of `step` lag behind its inputs."""
    return self.right if self.carried else 0

  def start(self, done: int) -> int:
    """Returns the first frame of the chunk whose first kept result is that of frame `done`."""
    return done + self.lag if self.carried else max(0, done - self.left)

  def start_state(self, batch: int) -> PyTree:
    """Returns the state at the start of `batch` clips, or None if no state is carried."""
    return self.initial_state(batch) if self.initial_state is not None else None

  def num_frames(self, inputs: int) -> int:
    """Returns the number of frames of a clip; the last frame may be partial."""
    return -(-inputs // self.unit)

  def size(self, start: int, rest: int) -> int:
    """Returns the frames of the chunk at frame `start` of a clip with `rest` frames from there."""
    largest, smaller = self.sizes
    if rest >= largest or (self.pooled and start):
      return largest
    return min(largest, smaller(rest))

  def exact_size(self, start: int, rest: int) -> int:
    """Returns `size` without padding: at most `rest` frames, unless `first` requires more.

    The size is `rest` up to eight frames and a power of two above that.
    """
    if rest >= self.sizes.largest:
      return self.sizes.largest
    size = rest if rest <= _AT_ONCE else 1 << (rest.bit_length() - 1)
    return size if start else max(size, self.first)

  def cut(
    self, clip: Shaped[np.ndarray, "inputs ..."] | Sliced, start: int, size: int, dropped: int = 0
  ) -> Shaped[np.ndarray, "chunk ..."]:
    """Returns the inputs of a chunk; zeros outside of the clip.

    Args:
      clip: the inputs of the clip without the first `dropped`.
      start: first frame of the chunk.
      size: frames of the chunk.
      dropped: number of inputs missing at the start of `clip`.
    """
    before, after = self.margins
    first = start * self.unit - before - dropped
    last = first + before + size * self.unit + after
    chunk = np.zeros((last - first, *clip.shape[1:]), self.dtype)
    missing, first = max(0, -first), max(0, first)
    piece = clip[first:last]
    chunk[missing : missing + len(piece)] = piece
    return chunk


def zero_state(make: Callable[[int], PyTree], batch: int) -> PyTree:
  """Returns a state of zeros with the shapes of `make(batch)`.

  Unlike a call of `make`, this compiles no program for each of the arrays.
  """
  shapes = jax.eval_shape(functools.partial(make, batch))
  return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
