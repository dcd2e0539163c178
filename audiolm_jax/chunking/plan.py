"""Plans how a clip is cut into chunks."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from audiolm_jax.chunking.model import ChunkedModel


class Chunk(NamedTuple):
  """A chunk of a clip and the range of its results to keep.

  A chunk may extend beyond the end of the clip.

  Attributes:
    start: first frame of the chunk.
    size: number of frames of the chunk.
    keep_from: start of the range of results to keep, in frames from the first result of the chunk.
    keep_to: end of this range (exclusive), in frames from the first result of the chunk.
    done: the frame of the clip after the last frame whose result is kept.
  """

  start: int
  size: int
  keep_from: int
  keep_to: int
  done: int


def plan(
  model: ChunkedModel,
  frames: int,
  done: int | None = None,
  until: int | None = None,
  size: Callable[[int, int], int] | None = None,
) -> Iterator[Chunk]:
  """Yields the chunks that compute the results of the frames `done` to `until - 1` of a clip.

  The kept results depend only on the chunk, its margins and the state; see `ChunkedModel`.

  Args:
    model: the model to run.
    frames: number of frames of the clip that are known so far.
    done: first frame without a result, from the last `Chunk.done`; None at the start of a clip.
    until: end of the frames to compute (exclusive); `frames` by default.
    size: maps the first frame of a chunk and the number of remaining frames to the number of frames
      of the chunk; `model.size` by default.
  """
  until, size = frames if until is None else until, size or model.size
  lag = model.lag
  done = -lag if done is None else done
  # With a state, results lag behind inputs, so the chunks continue after the end of the clip.
  available = until + lag if model.carried else frames
  while 0 < until > done:
    start = model.start(done)
    rest = available - start
    length = size(start, rest)
    stop = until if rest <= length else min(until, start + length - model.right)
    first = start - lag  # frame of the chunk's first result
    yield Chunk(start, length, max(0, done) - first, stop - first, stop)
    done = stop
