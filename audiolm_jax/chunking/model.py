"""What a model declares so that it can be run in chunks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped

from audiolm_jax.core.errors import ConfigError

# So few frames of a stream are a chunk, whatever their number.
_AT_ONCE = 8

Step = Callable[[np.ndarray, np.ndarray, Any], tuple[Any, Any]]


class Reach(NamedTuple):
  """How many frames before and after its own a result depends on."""

  left: int
  right: int


class Sizes(NamedTuple):
  """The numbers of frames that a chunk may have.

  Attributes:
    largest: of all chunks but the last ones of a clip.
    smaller: given the frames that are left, fewer than `largest`, the frames of the next chunk.
  """

  largest: int
  smaller: Callable[[int], int]

  @classmethod
  def in_steps(cls, largest: int, step: int) -> "Sizes":
    """What is left goes in one chunk of a multiple of `step`: more programs, fewer chunks."""
    return cls(largest, lambda rest: -(-rest // step) * step)

  @classmethod
  def of_two(cls, largest: int, small: int) -> "Sizes":
    """What is left goes in chunks of `small`: two programs, more chunks."""
    return cls(largest, lambda rest: small)


@dataclasses.dataclass(frozen=True)
class ChunkedModel:
  """A model that maps chunks of whole frames of clips side by side.

  Attributes:
    step: maps inputs [batch, size * unit, ...], ends [batch] and a state to results
      [batch, size * n, ...], n for each frame, and the state after them. `ends` are the inputs from
      the first frame of the chunk to each clip's end, which may be beyond the chunk or before it.
    nothing: results of no frame of one clip, [0, ...].
    sizes: the numbers of frames that a chunk may have.
    initial_state: the state at the start of that many clips. Without it nothing is carried from
      chunk to chunk, and `step` receives None.
    left: frames before a frame that its result depends on, if no state carries them.
    right: frames after a frame that its result depends on. If a state is carried, the results of
      `step` are those of the frames so many before its inputs.
    first: frames that the first chunk has at least.
    unit: inputs per frame.
    margins: inputs before and after a chunk that are part of its inputs, zeros outside of the clip.
    dtype: of the inputs.
    pooled: chunks of one size go side by side, whichever clips they are of, so that every clip is
      cut as it is alone; all chunks of a clip longer than the largest size have that size. If not,
      clips of like length go side by side, all cut as the longest of them.
    prepare: begins to load or compile what `step` needs for such arguments.
  Raises:
    ConfigError: the largest chunk leaves no result to keep, or a state is carried and chunks are
      to be pooled or to overlap.
  """

  step: Step
  nothing: Shaped[np.ndarray, "0 ..."]
  sizes: Sizes
  initial_state: Callable[[int], Any] | None = None
  left: int = 0
  right: int = 0
  first: int = 1
  unit: int = 1
  margins: tuple[int, int] = (0, 0)
  dtype: Any = np.float32
  pooled: bool = False
  prepare: Callable[[np.ndarray, np.ndarray, Any], None] | None = None

  def __post_init__(self) -> None:
    if self.left + self.right >= self.sizes.largest:
      raise ConfigError(
        f"a chunk of {self.sizes.largest} frames has no result to keep: each depends on "
        f"{self.left} frames before and {self.right} after it; take larger chunks"
      )
    if self.carried and (self.pooled or self.left):
      raise ConfigError("chunks of a model that carries a state can neither be pooled nor overlap")

  @property
  def carried(self) -> bool:
    """Whether a state goes from chunk to chunk."""
    return self.initial_state is not None

  @property
  def lag(self) -> int:
    """Frames by which the results of `step` come after its inputs."""
    return self.right if self.carried else 0

  def start(self, done: int) -> int:
    """The frame with which the chunk begins that gives the results from frame `done` on."""
    return done + self.lag if self.carried else max(0, done - self.left)

  def start_state(self, batch: int) -> Any:
    """The state at a clip's start; None if none is carried."""
    return self.initial_state(batch) if self.initial_state is not None else None

  def num_frames(self, inputs: int) -> int:
    """Frames of a clip of that many inputs, the last of which may be partial."""
    return -(-inputs // self.unit)

  def size(self, start: int, rest: int) -> int:
    """Frames of the chunk from frame `start` of a clip, with `rest` frames from there on."""
    largest, smaller = self.sizes
    if rest >= largest or (self.pooled and start):
      return largest
    return min(largest, smaller(rest))

  def exact_size(self, start: int, rest: int) -> int:
    """The same, but no more than are left unless `first` asks for more.

    Up to eight frames go at once, of more a power of two.
    """
    if rest >= self.sizes.largest:
      return self.sizes.largest
    size = rest if rest <= _AT_ONCE else 1 << (rest.bit_length() - 1)
    return size if start else max(size, self.first)

  def cut(
    self, clip: Shaped[np.ndarray, "inputs ..."], start: int, size: int, dropped: int = 0
  ) -> Shaped[np.ndarray, "chunk ..."]:
    """The inputs of `size` frames from frame `start` on, zeros where the clip has no more.

    Args:
      clip: its inputs without the first `dropped`.
    """
    before, after = self.margins
    first = start * self.unit - before - dropped
    last = first + before + size * self.unit + after
    chunk = np.zeros((last - first, *clip.shape[1:]), self.dtype)
    missing, first = max(0, -first), max(0, first)
    piece = clip[first:last]
    chunk[missing : missing + len(piece)] = piece
    return chunk


def zero_state(make: Callable[[Any, int], Any], config: Any, batch: int) -> Any:
  """The state that `make` describes, all zeros; compiles no program for each of its arrays."""
  shapes = jax.eval_shape(functools.partial(make, config, batch))
  return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
