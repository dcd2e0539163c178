"""The declaration of a model that runs in chunks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import PyTree, Shaped

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import ConfigError

# A chunk of a stream has any number of frames up to this limit, else a power of two.
_AT_ONCE = 8

Step = Callable[[np.ndarray, np.ndarray, PyTree], tuple[Array | np.ndarray, PyTree]]


@runtime_checkable
class Sliced(Protocol):
  """The inputs of a clip that are read in slices, so that they need not fit in memory."""

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the whole array."""
    ...

  def __len__(self) -> int: ...

  def __getitem__(self, part: slice) -> np.ndarray:
    """Returns a slice; callers should read slices in increasing order, which is fastest."""
    ...

  def __array__(self) -> np.ndarray: ...


class Reach(NamedTuple):
  """The numbers of earlier (left) and later (right) frames that a frame's result depends on."""

  left: int
  right: int


class Sizes(NamedTuple):
  """The numbers of frames that a chunk may have.

  Attributes:
    largest: number of frames of a chunk if at least this number of frames remains.
    smaller: maps a smaller number of remaining frames to the number of frames of the next chunk.
  """

  largest: int
  smaller: Callable[[int], int]

  @classmethod
  def in_steps(cls, largest: int, step: int) -> "Sizes":
    """Returns sizes with one shorter last chunk, which has a multiple of `step` frames."""
    return cls(largest, lambda rest: -(-rest // step) * step)

  @classmethod
  def of_two(cls, largest: int, small: int) -> "Sizes":
    """Returns sizes with chunks of `small` frames if fewer than `largest` frames remain."""
    return cls(largest, lambda rest: small)


@dataclasses.dataclass(frozen=True)
class ChunkedModel:
  """A model that maps chunks of whole frames, for several clips at once.

  Attributes:
    step: maps inputs, ends [batch] and a state to results [batch, size * n, ...], with n results
      per frame, and the next state. The inputs are [batch, before + size * unit + after, ...],
      where `margins` is (before, after). `ends` is the number of inputs from the first frame of the
      chunk to the end of each clip; it is negative if the clip ends before the chunk.
    nothing: the results of a clip without frames, [0, ...].
    sizes: the numbers of frames that a chunk may have; see `exact_size` for streams with a state.
    initial_state: maps a number of clips to the state at the start of the clips. If None, no state
      is carried from chunk to chunk and `step` receives None.
    left: number of earlier frames that the result of a frame depends on; 0 if a state carries the
      past.
    right: number of later frames that the result of a frame depends on. If a state is carried, the
      results of `step` belong to frames that are `right` frames earlier than its inputs.
    first: minimum number of frames of the first chunk of a stream.
    unit: number of inputs per frame.
    margins: `step` also receives these numbers of inputs before and after the frames of a chunk;
      these inputs are zeros outside of the clip.
    dtype: dtype of the inputs.
    pooled: whether a batch consists of equally large chunks from any clips. Each clip is then cut
      as if it were alone, and all chunks of a clip longer than the largest size have the largest
      size. If False, a batch consists of clips of similar length, all cut like the longest.
    prepare: starts to load or compile, in the background, the program that `step` runs for the
      given arguments; None if there is no such program.

  Raises:
    ConfigError: the largest chunk has at most `left + right` frames, or a model with a state sets
      `pooled` or `left`.
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
    """Returns the first frame of the chunk whose kept results begin at frame `done`."""
    return done + self.lag if self.carried else max(0, done - self.left)

  def start_state(self, batch: int) -> PyTree:
    """Returns the state at the start of `batch` clips, or None if no state is carried."""
    return self.initial_state(batch) if self.initial_state is not None else None

  def num_frames(self, inputs: int) -> int:
    """Returns the number of frames of a clip; the last frame may be partial."""
    return -(-inputs // self.unit)

  def size(self, start: int, rest: int) -> int:
    """Returns the number of frames of the chunk at frame `start`, from where `rest` frames remain.

    The size may exceed `rest`; the inputs of such a chunk are padded with zeros.
    """
    largest, smaller = self.sizes
    if rest >= largest or (self.pooled and start):
      return largest
    return min(largest, smaller(rest))

  def exact_size(self, start: int, rest: int) -> int:
    """Returns the size in frames of the next chunk in a stream with a state.

    The size is `rest` for up to eight frames, else the largest power of two up to `rest`. It is at
    most the largest size. The first chunk has at least `first` frames. See `size` for `start`
    and `rest`.
    """
    if rest >= self.sizes.largest:
      return self.sizes.largest
    size = rest if rest <= _AT_ONCE else 1 << (rest.bit_length() - 1)
    return size if start else max(size, self.first)

  def cut(
    self, clip: Shaped[np.ndarray, "inputs ..."] | Sliced, start: int, size: int, dropped: int = 0
  ) -> Shaped[np.ndarray, "chunk ..."]:
    """Returns the inputs of a chunk and its margins; zeros outside of the clip.

    Args:
      clip: the inputs of the clip without the first `dropped` inputs.
      start: first frame of the chunk.
      size: number of frames of the chunk.
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

  Unlike `make(batch)`, this function does not compile a program for each array.
  """
  shapes = jax.eval_shape(functools.partial(make, batch))
  return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
